{{/* The claim of a class, which must be one that all share: (list $ "home"). */}}
{{- define "meridian.storageClaim" -}}
{{- $storage := (index . 0).Values.singleuser.storage }}{{ $class := index . 1 }}
{{- if eq $class "home" }}
{{- if ne $storage.type "static" }}
{{- fail "storage.classes.home needs singleuser.storage.type static, with one volume of everybody's homes: a claim for each person cannot be mounted here." }}
{{- end }}
{{- $storage.static.pvcName }}
{{- else }}
{{- $claim := get $storage $class | dig "persistentVolumeClaim" "claimName" "" }}
{{- if not $claim }}
{{- fail (printf "storage.classes.%s needs singleuser.storage.%s to be a claim that all share, as {persistentVolumeClaim: {claimName: …}}." $class $class) }}
{{- end }}
{{- $claim }}
{{- end }}
{{- end }}

{{/* Where people's files are, for the process that keeps them. */}}
{{- define "meridian.storageSettings" -}}
{{- $storage := .Values.storage }}
{{- $user := .Values.singleuser }}
{{- $classes := dict }}
{{- $claims := dict }}
{{- range $name, $class := $storage.classes }}
{{- if eq $name "object" }}
{{- $bucket := dict "backend" "objects" "bucket" $class.bucket "prefix" ($class.prefix | default "") }}
{{- with $class.endpointUrl }}{{ $_ := set $bucket "endpoint_url" . }}{{ end }}
{{- $_ := set $classes $name $bucket }}
{{- else }}
{{- $claim := include "meridian.storageClaim" (list $ $name) }}
{{- if hasKey $claims $claim }}
{{- fail (printf "storage.classes: %s and %s must have claims of their own, not both %s." (get $claims $claim) $name $claim) }}
{{- end }}
{{- $_ := set $claims $claim $name }}
{{- $_ := set $classes $name (dict "backend" "scan" "folder" (printf "/areas/%s" $name) "uid" (int $user.uid) "gid" (int $user.fsGid)) }}
{{- end }}
{{- end }}
{{- $settings := dict "classes" $classes "state" "/var/lib/meridian/storage" "intervals_seconds" $storage.intervalsSeconds }}
{{- with $storage.entriesPerSecond }}{{ $_ := set $settings "entries_per_second" . }}{{ end }}
{{- with $storage.archive }}
{{- if and .url .claim }}{{ fail "storage.archive: set url or claim, not both." }}{{ end }}
{{- with .url }}{{ $_ := set $settings "archive" . }}{{ end }}
{{- with .claim }}{{ $_ := set $settings "archive" "/archive/archives" }}{{ end }}
{{- with .endpointUrl }}{{ $_ := set $settings "archive_endpoint_url" . }}{{ end }}
{{- end }}
{{- toYaml $settings }}
{{- end }}
