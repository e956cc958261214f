usage {
  database = "postgres://root:hunter2@db/usage?sslmode=nonsense"
}
route "r" {
  respond {}
}
