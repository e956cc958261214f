# The sidecar of users.
sidecar "users" {
  app    = "127.0.0.1:8080"
  listen = "10.89.77.12:8081"
  tags   = ["sidegate.host=users.localhost"]

  check {
    http   = "/"
    listen = "10.89.77.12:8082"
  }
}
