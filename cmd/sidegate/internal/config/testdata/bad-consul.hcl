consul {
  address   = "ftp://127.0.0.1"
  cert_file = "bad-consul.hcl"
  expose {
    hosts = ["*.example.com", "http://x"]
    use   = ["public"]
  }
}
