# A stand-in for a service: says its name, and asks users by its sidecar.
listener "http" {
  address = "127.0.0.1:8080"
  tls     = false
}

route "name" {
  respond {
    status = 200
    body   = "orders"
  }
}

route "users" {
  paths   = ["/users"]
  service = "users"
}

service "users" {
  instances = ["127.0.0.1:9191"]
}
