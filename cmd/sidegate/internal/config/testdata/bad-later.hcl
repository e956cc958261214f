tls {
  acme {
    dns = "x"
  }
}
route "r" {
  respond {}
}
