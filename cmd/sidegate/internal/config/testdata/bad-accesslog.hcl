access_log {
  fields = ["status", "status", "stauts", "colour", "header.authorization", "header.x-tenant-key", "header.x-key", "response.Set-Cookie", "header.a b", "header.X-Tenant"]
  redact = ["token", "a=b", ""]
}
service "s" {
  instances = ["127.0.0.1:1"]
}
route "r" {
  hosts   = ["a.example.com"]
  service = "s"
  auth "api_key" {
    header = "X-Tenant-Key"
  }
  auth "forward" {
    url     = "https://auth.example.com/"
    headers = ["X-Key", "Accept"]
  }
}
