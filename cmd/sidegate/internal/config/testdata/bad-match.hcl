route "hosts" {
  hosts = ["*.example.com", "a.*.com", "*", "a*.com", "example.com:8443", "https://example.com/x", "bücher.example", "a..b", ""]
  respond {}
}
route "paths" {
  paths = ["orders", "/a/*/b", "/a*", "/{id}/{id}", "/{id", "/x{id}", "/a//b", "/a/../b", "/a?b=c", "/{}"]
  respond {}
}
route "methods" {
  methods = ["get", "G T", "GET", "GET"]
  respond {}
}
route "conditions" {
  headers = { "Accept" = "~(", "Host" = "x", "A B" = "y" }
  query   = { "q" = "~[" }
  respond {}
}
