tracing {
  endpoint = "grpc://collector:4317"
  headers  = { "Host" = "a", "X-Token" = "s3cret" }
}
