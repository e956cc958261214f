log = "debug"
drain {}
route {
  respond {}
}
route "a" "b" {
  respond {}
}
route "" {
  respond {}
}
route "with space" {
  respond {}
}
admin "x" {}
route "ok" {
  redirect = "/x"
  hosts {
  }
}
admin {}
admin {}
listener "a" {}
