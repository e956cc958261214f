service "s" { instances = ["127.0.0.1:1"] }
route "strip" {
  paths        = ["/orders/*", "/carts"]
  service      = "s"
  strip_prefix = "/orders"
}
route "strip-slash" {
  paths        = ["/a/*"]
  service      = "s"
  strip_prefix = "/a/"
}
route "strip-all" {
  hosts        = ["a.example.com"]
  service      = "s"
  strip_prefix = "/orders"
}
route "to" {
  paths = ["/a/{id}", "/b/{id}/{part}"]
  redirect { to = "https://example.com/{id}/{part}/{pth}" }
}
route "braces" {
  hosts = ["b.example.com"]
  redirect { to = "https://example.com/{id" }
}
route "relative" {
  hosts = ["c.example.com"]
  redirect { to = "example.com" }
}
route "protocol-relative" {
  hosts = ["d.example.com"]
  redirect { to = "//example.com/ x" }
}
route "sunset" {
  hosts   = ["e.example.com"]
  service = "s"
  sunset {
    date       = "2027-13-30"
    deprecated = "soon"
    link       = "docs"
  }
}
route "sunset-order" {
  hosts   = ["f.example.com"]
  service = "s"
  sunset {
    date       = "2027-01-01"
    deprecated = "2027-06-01"
  }
}
route "when" {
  hosts   = ["g.example.com"]
  when    = "request.methd == 'GET'"
  service = "s"
}
route "policy" {
  hosts   = ["h.example.com"]
  service = "s"
  request {
    set    = { "X A" = "x", "X-B" = "{nope" }
    remove = ["a b"]
  }
  response {
    remov = ["Server"]
  }
  response {
  }
  keyed "basic" {}
  keyed "jwt" { realm = "x" }
  keyed "jwtt" {}
}
route "policy-new" {
  hosts   = ["i.example.com"]
  paths   = ["/a/{id}"]
  service = "s"
  request {
    set    = { "X A" = "x", "X-B" = "{nope" }
    remove = ["a b"]
  }
  response {
    set = { "X-Id" = "{ids}" }
  }
  keyed "jwt" { realm = "nobody" }
}
route "wrong-twice" {
  hosts   = ["a:1", 7]
  paths   = ["x"]
  nope    = 1
  service = "s"
  use     = ["none"]
  redirect { to = "x" }
}
policy "bundle" {
  response {
    set = { "X-Id" = "{id}", "A B" = "" }
  }
}
