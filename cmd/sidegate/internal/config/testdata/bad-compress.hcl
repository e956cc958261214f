route "r" {
  hosts   = ["a.test"]
  service = "s"
  compress {
    encodings  = ["deflate", "gzip"]
    types      = ["text/*"]
    min_length = "-1"
    level      = 5
  }
}
route "types" {
  hosts   = ["b.test"]
  service = "s"
  compress {
    encodings = ["br", "br"]
    types     = ["*/*", "Text/html"]
  }
}
route "none" {
  hosts   = ["c.test"]
  service = "s"
  compress { encodings = [] }
}
route "twice" {
  hosts   = ["d.test"]
  service = "s"
  compress {}
  compress {}
}
service "s" { instances = ["127.0.0.1:1"] }
