consumer "acme" {
  jwt { subject = "s" }
  jwt {
    subject = "s"
    issuer  = "https://a.test"
  }
  jwt { subject = "" }
  jwt {}
}
consumer "umbrella" {
  jwt {
    subject = "s"
    issuer  = "https://a.test"
  }
}
policy "b" {
  auth "jwt" {
    issuer   = "https://b.test"
    audience = ["api"]
  }
}
route "r" {
  respond { body = "ok" }
  auth "jwt" {
    issuer     = "https://a.test"
    audience   = []
    jwks       = "http://a.test/jwks"
    algorithms = ["RS256", "HS256"]
    ca_file    = "nowhere.pem"
    leeway     = "1m"
  }
  auth "jwt" {}
  auth "jwt" {
    issuer     = "not a URL"
    audience   = [""]
    algorithms = []
    realm      = "\"quoted\""
  }
}
