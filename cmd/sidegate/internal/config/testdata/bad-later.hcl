sidecar "orders" {}
usage {}
policy "p" {
  charge {}
}
service "s" {
  instances = ["127.0.0.1:1"]
}
route "r" {
  service = "s"
  charge {}
}
