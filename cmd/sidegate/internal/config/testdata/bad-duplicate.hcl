route "one" {
  hosts   = ["a.example.com", "b.example.com"]
  paths   = ["/orders/*"]
  methods = ["POST", "GET"]
  respond {}
}
route "two" {
  hosts   = ["B.example.com"]
  paths   = ["/orders/*", "/carts"]
  methods = ["GET", "POST"]
  respond {}
}
route "one" {
  hosts = ["c.example.com"]
  respond {}
}
policy "p" {}
policy "p" {}
service "s" { instances = ["127.0.0.1:1"] }
service "s" { instances = ["127.0.0.1:1"] }
listener "l" { address = ":1001" }
listener "l" { address = ":1002" }
drain = "1s"
log {}
log {}
