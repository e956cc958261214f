route "r" {
  respond { body = "ok" }
  auth "mtls" {}
}
