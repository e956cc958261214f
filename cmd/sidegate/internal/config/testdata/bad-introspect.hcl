consumer "acme" {
  jwt { subject = "a" }
}
route "r" {
  respond { body = "ok" }
  auth "introspect" {
    url       = "https://id.test/introspect"
    client_id = "gateway"
  }
  auth "introspect" {
    url           = "http://id.test/introspect"
    client_id     = ""
    client_secret = "s"
    issuer        = "https://id.test"
    audience      = [""]
    labels        = { team = "" }
    cache         = "2h"
    ca_file       = "nowhere.pem"
  }
}
route "s" {
  respond { body = "ok" }
  auth "introspect" {
    url           = "http://id.test/introspect"
    client_id     = ""
    client_secret = "s"
    issuer        = "https://id.test"
    audience      = [""]
    labels        = { team = "" }
  }
}
