access_log {
  format = "combined"
  fields = ["status"]
}
