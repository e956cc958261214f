redis {
  address = "127.0.0.1:6379"
}
plan "gold" {}
consumer "acme" {}
sidecar "orders" {}
usage {}
tracing {}
policy "p" {
  waf {}
  cors {}
}
service "s" {
  instances = ["127.0.0.1:1"]
  limits { adaptive = false }
}
route "r" {
  service   = "s"
  authorize = "true"
  block {}
  ban {}
  limits {}
  rate_limit {}
  quota {}
  validate {}
  cache {}
  charge {}
  compress {}
}
