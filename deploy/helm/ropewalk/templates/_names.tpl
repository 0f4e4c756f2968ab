{{- define "ropewalk.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "ropewalk" $name) }}{{ $name = printf "%s-ropewalk" $name }}{{ end -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of everything; the argument is a dict of root and component. */}}
{{- define "ropewalk.labels" -}}
{{ include "ropewalk.selector" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: ropewalk
{{- end }}

{{- define "ropewalk.selector" -}}
app.kubernetes.io/name: ropewalk
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "ropewalk.image" -}}
{{ .root.Values.image.repository }}/{{ .component }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "ropewalk.account" -}}
{{ (index .root.Values .component).serviceAccount.name | default (printf "%s-%s" (include "ropewalk.name" .root) .component) }}
{{- end }}

{{/* The namespace and the service account of runs. */}}
{{- define "ropewalk.runs.namespace" -}}
{{ required "zenml.environment.ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE is needed: the namespace that Jobs are made in" .Values.zenml.environment.ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE }}
{{- end }}
{{- define "ropewalk.runs.account" -}}
{{ required "zenml.environment.ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT is needed: the service account that the pods of runs have" .Values.zenml.environment.ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT }}
{{- end }}

{{/* A value of the environment as text. YAML's large whole numbers arrive as
     floating-point ones, which would be printed as 1e+09. */}}
{{- define "ropewalk.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else if or (kindIs "map" .) (kindIs "slice" .) }}{{ toJson . }}{{ else }}{{ toString . }}{{ end -}}
{{- end }}

{{- define "ropewalk.nats.url" -}}
{{- if .Values.nats.server.enabled -}}
{{- if .Values.nats.url }}{{ fail "set nats.url or nats.server.enabled, not both" }}{{ end -}}
nats://{{ include "ropewalk.name" . }}-nats.{{ .Release.Namespace }}.svc:4222
{{- else -}}
{{ required "nats.url is needed: the address of the NATS server; or try Ropewalk out with nats.server.enabled=true" .Values.nats.url }}
{{- end -}}
{{- end }}

{{/* Whether there is anything for shippers to do: the settings name an archive, or
     the flavour has one of its own. It must be what the programs make of the
     settings: dispatchers put lines on the stream whether or not anybody ships. */}}
{{- define "ropewalk.ships" -}}
{{- $all := merge (dict) .Values.settings .Values.zenml.environment -}}
{{- $external := eq (lower (toString (get $all "ZENML_KUBERNETES_WORKLOAD_MANAGER_ENABLE_EXTERNAL_LOGS"))) "true" -}}
{{- $google := hasSuffix ".GCPKubernetesWorkloadManager" (printf ".%s" (trim (toString (get $all "ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE")))) -}}
{{- $enabled := toString .Values.logshipper.enabled -}}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") (or $external $google (get $all "ROPEWALK_LOG_ARCHIVE"))) }}yes{{ end -}}
{{- end }}

{{/* How a process logs in to NATS; the argument is a dict of root and component. */}}
{{- define "ropewalk.nats.env" -}}
{{- $nats := .root.Values.nats -}}
{{- $secret := index $nats.secrets .component -}}
{{- if or (ne $nats.auth "none") $nats.tls.ca $nats.tls.clientCertificate }}
{{- $secret = required (printf "nats.secrets.%s is needed with nats.auth or nats.tls: the name of the Secret" .component) $secret }}
{{- end }}
- name: ROPEWALK_NATS_INBOX
  value: _INBOX.{{ .component }}
{{- if eq $nats.auth "password" }}
- name: ROPEWALK_NATS_USER
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: user}}
- name: ROPEWALK_NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: password}}
{{- else if eq $nats.auth "token" }}
- name: ROPEWALK_NATS_TOKEN
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: token}}
{{- else if eq $nats.auth "credentials" }}
- name: ROPEWALK_NATS_CREDENTIALS
  value: /etc/ropewalk/nats/nats.creds
{{- end }}
{{- if $nats.tls.ca }}
- name: ROPEWALK_NATS_TLS_CA
  value: /etc/ropewalk/nats/ca.crt
{{- end }}
{{- if $nats.tls.clientCertificate }}
- name: ROPEWALK_NATS_TLS_CERT
  value: /etc/ropewalk/nats/tls.crt
- name: ROPEWALK_NATS_TLS_KEY
  value: /etc/ropewalk/nats/tls.key
{{- end }}
{{- end }}

{{/* The files that NATS needs, if any. */}}
{{- define "ropewalk.nats.files" -}}
{{- $nats := .root.Values.nats -}}
{{- if or (eq $nats.auth "credentials") $nats.tls.ca $nats.tls.clientCertificate }}{{ index $nats.secrets .component }}{{ end -}}
{{- end }}
