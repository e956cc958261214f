consumer "acme" {
  jwt { subject = "s" }
}
route "r" {
  respond { body = "ok" }
}
