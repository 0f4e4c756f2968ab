# The dispatcher: one static program and nothing else. Build the program first:
#   GOOS=linux make build
#   docker build -f deploy/images/dispatcher.Dockerfile -t ropewalk/dispatcher:dev .
#
# BASE is for the local launcher, whose runs are programs of the image:
#   docker build --build-arg BASE=busybox:stable …
ARG BASE=scratch
FROM ${BASE}
COPY bin/dispatcher /usr/local/bin/dispatcher
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/dispatcher"]
CMD ["serve"]
