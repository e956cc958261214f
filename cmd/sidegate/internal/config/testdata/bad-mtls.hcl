consumer "acme" {
  mtls { san = "spiffe://example.com/acme" }
  mtls { san = "Acme.Example.com" }
  mtls { san = "spiffe://example.com/acme?x=1" }
  mtls { san = "spiffe://EXAMPLE.com/acme" }
  mtls { san = "*.example.com" }
  mtls { san = "CN=acme" }
  mtls { san = "" }
  mtls { san = "@example.com" }
  mtls {}
}
consumer "umbrella" {
  mtls { san = "spiffe://example.com/acme" }
  mtls { san = "acme.example.com" }
}
route "r" {
  respond { body = "ok" }
  auth "mtls" { san = "x" }
}
