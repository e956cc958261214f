listener "http" {
  address = ":80"
  tls     = false
}
route "r" {
  respond { body = "ok" }
  auth "oidc" {
    issuer    = "https://id.test"
    client_id = "gateway"
  }
}
