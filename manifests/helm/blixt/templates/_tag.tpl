{{- define "blixt.tag" -}}
{{ .Values.images.tag | default .Chart.AppVersion }}
{{- end }}
