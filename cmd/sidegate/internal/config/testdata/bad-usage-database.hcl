usage {
  database = "mysql://root@db/usage"
}
route "r" {
  respond {}
}
