service "orders" {
  instances = ["127.0.0.1:9001"]
}
service "lost" {
}
service "empty" {
  instances = []
}
policy "public-api" {
}
route "a" {
  hosts   = ["a.example.com"]
  service = "ordrs"
  use     = ["public-ap", "public-api", "public-api"]
}
route "b" {
  hosts = ["b.example.com"]
  split = { "orders" = 1, "other" = 2 }
  mirror {
    service = "shadow"
  }
}
