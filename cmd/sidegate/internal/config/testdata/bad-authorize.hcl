policy "p" {
  authorize = "request.method = 'GET'"
}
policy "empty" {
  authorize = ""
}
policy "form" {
  authorize { x = 1 }
}
route "r" {
  respond { body = "ok" }
  use       = ["p"]
  authorize = "claims.scope.contains('a') || requets.method == 'GET' || consumer.nam == 'x'"
}
route "type" {
  hosts = ["a.test"]
  respond { body = "ok" }
  authorize = "claims.admin"
}
route "twice" {
  hosts = ["b.test"]
  respond { body = "ok" }
  authorize = "true"
  authorize = "true"
}
