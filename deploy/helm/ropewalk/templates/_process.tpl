{{/* The Deployment of a process, with its service account and disruption budget;
     the argument is a dict of root and component. */}}
{{- define "ropewalk.process" -}}
{{- $root := .root }}
{{- $name := printf "%s-%s" (include "ropewalk.name" $root) .component }}
{{- $own := index $root.Values .component }}
{{- $files := include "ropewalk.nats.files" . }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "ropewalk.account" . }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "ropewalk.labels" . | nindent 4 }}
  {{- with $own.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "ropewalk.labels" . | nindent 4 }}
spec:
  replicas: {{ $own.replicas }}
  revisionHistoryLimit: 3
  # A new one is ready before an old one goes.
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels: {{- include "ropewalk.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "ropewalk.labels" . | nindent 8 }}
        {{- with $own.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # A change of settings is a rolling update.
        ropewalk.dev/settings: {{ include (print $root.Template.BasePath "/settings.yaml") $root | sha256sum | trunc 16 | quote }}
        {{- with $own.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "ropewalk.account" . }}
      # Only the dispatcher talks to the cluster.
      automountServiceAccountToken: {{ eq .component "dispatcher" }}
      enableServiceLinks: false
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
      {{- range . }}
      - name: {{ . }}
      {{- end }}
      {{- end }}
      {{- with $own.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      terminationGracePeriodSeconds: {{ $own.terminationGracePeriodSeconds }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile: {type: RuntimeDefault}
      containers:
      - name: {{ .component }}
        image: {{ include "ropewalk.image" . }}
        imagePullPolicy: {{ $root.Values.image.pullPolicy }}
        args: [serve]
        envFrom:
        - configMapRef: {name: {{ include "ropewalk.name" $root }}-settings}
        env:
        {{- include "ropewalk.nats.env" . | trim | nindent 8 }}
        {{- with $own.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        ports:
        - {name: http, containerPort: 8080}
        # It listens once it has reached NATS, which may be starting too.
        startupProbe:
          httpGet: {path: /livez, port: http}
          periodSeconds: 2
          failureThreshold: 150
        livenessProbe:
          httpGet: {path: /livez, port: http}
          periodSeconds: 10
          timeoutSeconds: 5
          failureThreshold: 6
        readinessProbe:
          httpGet: {path: /readyz, port: http}
          periodSeconds: 5
          timeoutSeconds: 3
        resources: {{- toYaml $own.resources | nindent 10 }}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL]}
        volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $files }}
        - {name: nats, mountPath: /etc/ropewalk/nats, readOnly: true}
        {{- end }}
      volumes:
      - name: tmp
        emptyDir: {sizeLimit: 64Mi}
      {{- if $files }}
      - name: nats
        secret: {secretName: {{ $files }}, defaultMode: 0440}
      {{- end }}
      {{- with $own.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
      {{- if $own.topologySpreadConstraints }}
      {{- toYaml $own.topologySpreadConstraints | nindent 6 }}
      {{- else }}
      {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
      - topologyKey: {{ . }}
        maxSkew: 1
        whenUnsatisfiable: ScheduleAnyway
        labelSelector:
          matchLabels: {{- include "ropewalk.selector" $ | nindent 12 }}
      {{- end }}
      {{- end }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "ropewalk.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $own.maxUnavailable }}
  selector:
    matchLabels: {{- include "ropewalk.selector" . | nindent 6 }}
---
# For metrics; nothing of ours talks to another through it.
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "ropewalk.labels" . | nindent 4 }}
spec:
  selector: {{- include "ropewalk.selector" . | nindent 4 }}
  ports:
  - {name: http, port: 8080, targetPort: http}
{{- end }}
