{{/* How runs become Jobs: what their pods have like servers. */}}
{{- define "meridian.jobs" -}}
{{- $user := .Values.singleuser }}
{{- $storage := $user.storage }}
{{- $claim := .Values.allocations.runStore.existingClaim | default (printf "%s-runs" (include "meridian.fullname" .)) }}
{{- $mounts := list }}
{{- $claimOfHome := dict }}
{{- if eq $storage.type "dynamic" }}
{{- $homeName := $storage.dynamic.pvcNameTemplate | replace "{username}" "{person}" }}
{{- $home := dict "claimName" $homeName }}
{{- $claimOfHome = dict "home_claim" (dict
  "name" $homeName
  "storage" $storage.capacity
  "access_modes" $storage.dynamic.storageAccessModes
  "storage_class" $storage.dynamic.storageClass
) }}
{{- $mounts = append $mounts (dict "name" "home" "path" $storage.homeMountPath "source" (dict "persistentVolumeClaim" $home)) }}
{{- else if eq $storage.type "static" }}
{{- $homes := dict "persistentVolumeClaim" (dict "claimName" $storage.static.pvcName) }}
{{- $mounts = append $mounts (dict "name" "home" "path" $storage.homeMountPath "source" $homes "sub_path" "{person}") }}
{{- end }}
{{- range $name, $volume := dict "scratch" (list $storage.scratch $storage.scratchMountPath "{allocation}") "shared" (list $storage.shared $storage.sharedMountPath "{allocation}") }}
{{- $source := include "meridian.source" (index $volume 0) | fromJson }}
{{- if $source }}
{{- $mount := dict "name" $name "path" (index $volume 1) "source" $source }}
{{- if hasKey $source "persistentVolumeClaim" }}{{ $_ := set $mount "sub_path" (index $volume 2) }}{{ end }}
{{- if eq $name "shared" }}{{ $_ := set $mount "tiers" $storage.sharedTiers }}{{ end }}
{{- $mounts = append $mounts $mount }}
{{- end }}
{{- end }}
{{- $secrets := list }}
{{- range .Values.imagePullSecrets }}{{ $secrets = append $secrets .name }}{{ end }}
{{- $environment := dict "MERIDIAN_URL" (include "meridian.url" .) }}
{{- range $name, $value := $user.extraEnv }}
{{- if not (kindIs "map" $value) }}{{ $_ := set $environment $name $value }}{{ end }}
{{- end }}
{{- $tiers := dict }}
{{- if .Values.scheduling.podPriority.enabled }}
{{- range $tier, $_ := .Values.scheduling.podPriority.tiers }}
{{- $_ := set $tiers $tier (printf "%s-%s" (include "meridian.clusterName" $) $tier) }}
{{- end }}
{{- end }}
{{- toYaml (merge $claimOfHome (dict
  "namespace" .Release.Namespace
  "run_store" (dict "persistentVolumeClaim" (dict "claimName" $claim))
  "mounts" $mounts
  "home_path" $storage.homeMountPath
  "environment" $environment
  "labels" (merge (dict "app.kubernetes.io/instance" .Release.Name) $user.extraLabels)
  "image_pull_secrets" $secrets
  "node_selector" $user.nodeSelector
  "tolerations" $user.extraTolerations
  "gpu_resource" $user.gpu.resource
  "gpu_nodes" $user.gpu.nodes
  "tier_priority_classes" $tiers
  "kueue_queue" .Values.batch.kueue.queue
)) }}
{{- end }}
