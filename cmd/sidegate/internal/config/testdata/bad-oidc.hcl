route "r" {
  hosts = ["a.test"]
  respond { body = "ok" }
  auth "oidc" {
    issuer     = "https://id.test"
    algorithms = ["none"]
    session    = "1s"
    ca_file    = "nowhere.pem"
    pkce       = false
  }
}
route "s" {
  hosts = ["b.test"]
  respond { body = "ok" }
  auth "oidc" {
    issuer        = "http://id.test"
    client_id     = ""
    scopes        = ["email"]
    cookie_secret = "short"
    callback      = "/x/../callback"
    logout        = "/logout?x"
    after_logout  = "//evil.test"
    parameters    = { state = "x" }
    labels        = { team = "" }
  }
}
