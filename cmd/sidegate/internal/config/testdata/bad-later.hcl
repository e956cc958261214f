sidecar "orders" {}
service "s" {
  instances = ["127.0.0.1:1"]
}
route "r" {
  service = "s"
}
