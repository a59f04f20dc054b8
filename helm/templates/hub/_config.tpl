{{/* What the values say, as settings of JupyterHub's classes; hub.config has the last word. */}}
{{- define "meridian.hubConfig" -}}
{{- $user := .Values.singleuser }}
{{- $spawner := dict
  "image" (include "meridian.image" (list . $user.image))
  "image_pull_policy" $user.image.pullPolicy
  "cmd" $user.cmd
  "uid" (int $user.uid)
  "fs_gid" (int $user.fsGid)
  "environment" (merge (dict "MERIDIAN_URL" (include "meridian.url" .)) $user.extraEnv)
  "extra_labels" (merge (dict "app.kubernetes.io/instance" .Release.Name) $user.extraLabels)
  "extra_annotations" $user.extraAnnotations
  "node_selector" $user.nodeSelector
  "tolerations" $user.extraTolerations
  "profile_list" $user.profileList
  "volumes" $user.storage.extraVolumes
  "volume_mounts" $user.storage.extraVolumeMounts
}}
{{- if .Values.imagePullSecrets }}
{{- $secrets := list }}
{{- range .Values.imagePullSecrets }}{{ $secrets = append $secrets .name }}{{ end }}
{{- $_ := set $spawner "image_pull_secrets" $secrets }}
{{- end }}
{{- if eq $user.storage.type "dynamic" }}
{{- $_ := set $spawner "storage_pvc_ensure" true }}
{{- $_ := set $spawner "storage_capacity" $user.storage.capacity }}
{{- $_ := set $spawner "storage_access_modes" $user.storage.dynamic.storageAccessModes }}
{{- $_ := set $spawner "pvc_name_template" $user.storage.dynamic.pvcNameTemplate }}
{{- with $user.storage.dynamic.storageClass }}{{ $_ := set $spawner "storage_class" . }}{{ end }}
{{- end }}
{{- $ours := dict
  "home_path" $user.storage.homeMountPath
  "scratch_source" (include "meridian.source" $user.storage.scratch | fromJson)
  "scratch_path" $user.storage.scratchMountPath
  "shared_source" (include "meridian.source" $user.storage.shared | fromJson)
  "shared_path" $user.storage.sharedMountPath
  "shared_tiers" $user.storage.sharedTiers
  "gpu_resource" $user.gpu.resource
  "gpu_nodes" $user.gpu.nodes
}}
{{- if eq $user.storage.type "static" }}
{{- $claim := required "singleuser.storage.static.pvcName has to name the volume of everybody's homes." $user.storage.static.pvcName }}
{{- $_ := set $ours "home_source" (dict "persistentVolumeClaim" (dict "claimName" $claim)) }}
{{- end }}
{{- if .Values.scheduling.podPriority.enabled }}
{{- $cluster := include "meridian.clusterName" . }}
{{- $_ := set $spawner "priority_class_name" (printf "%s-people" $cluster) }}
{{- $tiers := dict }}
{{- range $tier, $_ := .Values.scheduling.podPriority.tiers }}
{{- $_ := set $tiers $tier (printf "%s-%s" $cluster $tier) }}
{{- end }}
{{- $_ := set $ours "tier_priority_classes" $tiers }}
{{- end }}
{{- $config := dict
  "KubeSpawner" $spawner
  "KubeAllocationSpawner" $ours
  "Spawner" (dict "default_url" $user.defaultUrl "start_timeout" (int $user.startTimeout))
}}
{{- $hub := dict }}
{{- if eq .Values.hub.db.type "other" }}
{{- $_ := set $hub "db_url" (required "hub.db.url has to name the database of the hub." .Values.hub.db.url) }}
{{- end }}
{{- /* By http the hub goes by how it was reached, as ever: there may be several ways to it. */ -}}
{{- $url := include "meridian.publicUrl" . }}
{{- if hasPrefix "https://" $url }}
{{- $_ := set $hub "public_url" (printf "%s/" $url) }}
{{- end }}
{{- $_ := set $config "JupyterHub" $hub }}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.hub.config)) }}
{{- end }}
