# A stand-in for a service: says its name.
listener "http" {
  address = ":8080"
  tls     = false
}

route "name" {
  respond {
    status = 200
    body   = env("SERVICE")
  }
}
