redis {
  address = "127.0.0.1:6379"
}
sidecar "orders" {}
usage {}
tracing {}
policy "p" {
  waf {}
}
service "s" {
  instances = ["127.0.0.1:1"]
  limits { adaptive = false }
}
route "r" {
  service = "s"
  quota {}
  cache {}
  charge {}
  compress {}
}
