consul {
  address = env("NOT_SET")
  token   = credential("token")
  kv      = envv("X")
}
state_dir = "${env("SET")}/${unknown}"
log {
  level = foo.bar
}
