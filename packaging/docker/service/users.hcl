# A stand-in for a service: says its name.
listener "http" {
  address = "127.0.0.1:8080"
  tls     = false
}

route "name" {
  respond {
    status = 200
    body   = "users"
  }
}
