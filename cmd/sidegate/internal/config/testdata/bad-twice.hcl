listener "x" {
  address = ":1"
  address = ":2"
}
drain = "x"
admin {
  token = "a"
  token = "b"
}
