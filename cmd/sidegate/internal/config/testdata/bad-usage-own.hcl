consumer "acme" {}
policy "keyed" {
  auth "api_key" { header = "X-API-Key" }
}
route "fine-but-for-the-block" {
  hosts = ["a.test"]
  use   = ["keyed"]
  usage {}
}
route "nobody" {
  hosts        = ["b.test"]
  strip_prefix = "/a"
  usage {}
}
route "two" {
  hosts = ["c.test"]
  use   = ["keyed"]
  usage {}
  respond {}
}
