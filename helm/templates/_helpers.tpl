{{- define "meridian.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}
{{- end }}

{{/* Names of cluster-wide things carry the namespace too. */}}
{{- define "meridian.clusterName" -}}
{{ printf "%s-%s" (include "meridian.fullname" .) .Release.Namespace | trunc 80 | trimSuffix "-" }}
{{- end }}

{{/* Labels that select a component: (list $ "hub"). */}}
{{- define "meridian.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "meridian.labels" -}}
{{ include "meridian.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end }}

{{/* name, namespace and labels: (list $ "hub") */}}
{{- define "meridian.metadata" -}}
name: {{ include "meridian.fullname" (index . 0) }}-{{ index . 1 }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "meridian.labels" . | nindent 2 }}
{{- end }}

{{/* (list $ .Values.hub.image) */}}
{{- define "meridian.image" -}}
{{ (index . 1).name }}:{{ (index . 1).tag | default (index . 0).Chart.AppVersion }}
{{- end }}

{{/* Where the images of the policy's catalogue are, by their names, as JSON. */}}
{{- define "meridian.catalogue" -}}
{{- $root := . }}
{{- $places := dict }}
{{- if .Values.hub.enabled }}{{ $_ := set $places "base" (include "meridian.image" (list . .Values.singleuser.image)) }}{{ end }}
{{- range $name, $image := .Values.singleuser.images }}
{{- $_ := set $places $name (include "meridian.image" (list $root $image)) }}
{{- end }}
{{- toJson $places }}
{{- end }}

{{/* The container images that are recommended, by the names of the images, as JSON: those of the values' own catalogue,
     else the shipped one's, whose recommended versions are where the values say. */}}
{{- define "meridian.recommended" -}}
{{- $places := include "meridian.catalogue" . | fromJson }}
{{- $found := dict }}
{{- $own := index .Values.allocations.policies "images.yaml" }}
{{- if $own }}
{{- range $image := (fromYaml $own).images }}
{{- $reference := $image.reference | default (get $places $image.name) }}
{{- range $image.versions }}
{{- if eq .channel "recommended" }}
{{- $place := get $places $image.name | regexFind "^.*/[^:/@]*|^[^:/@]*" }}
{{- $reference = .reference | default (ternary (printf "%s:%v" $place .tag) "" (ne $place "")) }}
{{- end }}
{{- end }}
{{- if $reference }}{{ $_ := set $found $image.name $reference }}{{ end }}
{{- end }}
{{- else }}
{{- $found = $places }}
{{- end }}
{{- range $name, $image := .Values.singleuser.images }}
{{- if not (dig "prePull" true $image) }}{{ $_ := unset $found $name }}{{ end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* What every pod of ours has: (list $ "hub" .Values.hub uid token?) */}}
{{- define "meridian.pod" -}}
{{- $root := index . 0 }}{{ $component := index . 1 }}{{ $values := index . 2 }}{{ $uid := index . 3 }}
{{- if index . 4 }}
serviceAccountName: {{ include "meridian.fullname" $root }}-{{ $component }}
automountServiceAccountToken: true
{{- else }}
automountServiceAccountToken: false
{{- end }}
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $root.Values.scheduling.podPriority.enabled }}
priorityClassName: {{ include "meridian.clusterName" $root }}-core
{{- end }}
securityContext:
  runAsUser: {{ $uid }}
  runAsGroup: {{ $uid }}
  {{- if $uid }}
  runAsNonRoot: true
  fsGroup: {{ $uid }}
  {{- end }}
  {{- if eq $component "batch" }}
  # To give runs' folders to the group that people's pods have.
  supplementalGroups: [{{ $root.Values.singleuser.fsGid }}]
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Spreads the replicas of a component over the nodes: (list $ "worker") */}}
{{- define "meridian.spread" -}}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "meridian.selector" . | nindent 14 }}
{{- end }}

{{- define "meridian.restricted" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "meridian.secretName" -}}
{{ .Values.existingSecret | default (include "meridian.fullname" .) }}
{{- end }}

{{/* One variable from the Secret: (list $ "VARIABLE" "key") */}}
{{- define "meridian.secretEnv" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ include "meridian.secretName" (index . 0) }}
      key: {{ index . 2 }}
{{- end }}

{{/* Variables of `extraEnv`: a text, or {valueFrom: …}. */}}
{{- define "meridian.extraEnv" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  {{- if kindIs "map" $value }}
  {{- toYaml $value | nindent 2 }}
  {{- else }}
  value: {{ $value | toString | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The address of the ledger's database. */}}
{{- define "meridian.databaseEnv" -}}
- name: MERIDIAN_DATABASE_URL
  valueFrom:
    secretKeyRef:
      {{- if .Values.postgresql.enabled }}
      name: {{ include "meridian.secretName" . }}
      key: database-url
      {{- else if .Values.externalDatabase.existingSecret }}
      name: {{ .Values.externalDatabase.existingSecret }}
      key: {{ .Values.externalDatabase.existingSecretKey }}
      {{- else }}
      name: {{ include "meridian.fullname" . }}-database
      key: database-url
      {{- end }}
{{- end }}

{{/* What the service and the worker have alike. */}}
{{- define "meridian.allocationsEnv" -}}
- {name: MERIDIAN_MODE, value: kubernetes}
- {name: MERIDIAN_RUN_STORE, value: /var/lib/meridian/runs}
- {name: PYTHONUNBUFFERED, value: "1"}
{{- if .Values.allocations.policies }}
- {name: MERIDIAN_POLICIES, value: /etc/meridian/policies}
{{- end }}
{{- with .Values.cull.timeout }}
- {name: MERIDIAN_IDLE_SECONDS, value: {{ toJson . | quote }}}
{{- end }}
- {name: MERIDIAN_IMAGES, value: {{ include "meridian.catalogue" . | quote }}}
{{ include "meridian.databaseEnv" . }}
{{- end }}

{{- define "meridian.allocationsMounts" -}}
- {name: runs, mountPath: /var/lib/meridian/runs}
- {name: tmp, mountPath: /tmp}
{{- if .Values.allocations.policies }}
- {name: policies, mountPath: /etc/meridian/policies, readOnly: true}
{{- end }}
{{- end }}

{{- define "meridian.allocationsVolumes" -}}
- name: runs
  persistentVolumeClaim:
    claimName: {{ .Values.allocations.runStore.existingClaim | default (printf "%s-runs" (include "meridian.fullname" .)) }}
- name: tmp
  emptyDir: {}
{{- if .Values.allocations.policies }}
- name: policies
  configMap: {name: {{ include "meridian.fullname" . }}-policies}
{{- end }}
{{- end }}

{{/* Restarts pods when what they read at their start changes. */}}
{{- define "meridian.checksums" -}}
{{- if .Values.allocations.policies }}
checksum/policies: {{ toJson .Values.allocations.policies | sha256sum }}
{{- end }}
checksum/database: {{ toJson .Values.externalDatabase | sha256sum }}
{{- end }}

{{/* A secret's value: what is there already, else a new one. (list $existing "key" length) */}}
{{- define "meridian.kept" -}}
{{- $kept := get ((index . 0).data | default dict) (index . 1) -}}
{{- if $kept }}{{ $kept }}{{ else }}{{ randAlphaNum (index . 2 | int) | b64enc }}{{ end }}
{{- end }}

{{/* A NetworkPolicy's peer: the pods of a component, ours or another release's. (list $ "hub") */}}
{{- define "meridian.peer" -}}
{{- $component := get (index . 0).Values (index . 1) | default dict -}}
- podSelector:
    matchLabels:
      {{- if dig "enabled" true $component }}
      {{- include "meridian.selector" . | nindent 6 }}
      {{- else }}
      {{- toYaml $component.external.labels | nindent 6 }}
      {{- end }}
{{- end }}

{{/* The labels by which another release's hub knows whom to let in. */}}
{{- define "meridian.hubAccess" -}}
{{- if not .Values.hub.enabled }}{{ toYaml .Values.hub.external.accessLabels }}{{ end }}
{{- end }}

{{/* The hub's address within the cluster. */}}
{{- define "meridian.hubUrl" -}}
{{- if .Values.hub.enabled -}}
http://{{ include "meridian.fullname" . }}-hub:8081
{{- else -}}
{{ .Values.hub.external.url }}
{{- end }}
{{- end }}

{{/* The pods of people, servers and runs: everything that belongs to a lease. */}}
{{- define "meridian.people" -}}
matchExpressions:
  - {key: meridian/lease, operator: Exists}
{{- end }}

{{- define "meridian.pdbVersion" -}}
{{- if .Capabilities.APIVersions.Has "policy/v1" }}policy/v1{{ else }}policy/v1beta1{{ end }}
{{- end }}

{{- define "meridian.routeVersion" -}}
{{- if and (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1beta1") (not (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1")) }}gateway.networking.k8s.io/v1beta1{{ else }}gateway.networking.k8s.io/v1{{ end }}
{{- end }}

{{/* The container that brings the database to this version's schema. */}}
{{- define "meridian.migrate" -}}
image: {{ include "meridian.image" (list . .Values.allocations.image) }}
imagePullPolicy: {{ .Values.allocations.image.pullPolicy }}
command: [python, -m, allocations.cli, db, upgrade]
env:
  {{- include "meridian.databaseEnv" . | nindent 2 }}
{{ include "meridian.restricted" . }}
{{- end }}

{{/* Resources of a container: .Values.hub.resources */}}
{{- define "meridian.resources" -}}
{{- with . }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The platform's address within the cluster, for people's pods. */}}
{{- define "meridian.url" -}}
{{- if .Values.proxy.enabled -}}
http://{{ include "meridian.fullname" . }}-proxy-public:{{ .Values.proxy.service.port }}
{{- else -}}
{{ .Values.proxy.external.url }}
{{- end }}
{{- end }}

{{/* Where people open the platform; empty where no value says so. Of several hosts, none is the platform's. */}}
{{- define "meridian.publicUrl" -}}
{{- $url := .Values.hub.publicUrl | default .Values.worker.mail.platformUrl }}
{{- if and (not $url) .Values.ingress.enabled .Values.ingress.tls (eq (len .Values.ingress.hosts) 1) }}
{{- $url = printf "https://%s" (first .Values.ingress.hosts) }}
{{- end }}
{{- trimSuffix "/" $url }}
{{- end }}

{{/* The source of a volume. Helm keeps a default's emptyDir beside what somebody gives in its place. */}}
{{- define "meridian.source" -}}
{{- $source := . }}
{{- if gt (len $source) 1 }}{{ $source = omit $source "emptyDir" }}{{ end }}
{{- toJson $source }}
{{- end }}
