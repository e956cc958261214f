route "a" {
  hosts = ["a.example.com"
  respond {}
}
