tracing {
  endpoint = "127.0.0.1:4318"
  sample   = 2
}
