consul {
  address = "127.0.0.1:8500"
  token   = "hunter2"
}
service "orders" {
  protocol = "h2"
  tls {
    insecure = true
  }
}
