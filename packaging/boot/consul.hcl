# The agent of the boot test.
bind_addr  = "127.0.0.1"
data_dir   = "/run/consul"
log_level  = "warn"
server     = true
bootstrap  = true
datacenter = "dc1"
ports {
  grpc     = -1
  grpc_tls = -1
  serf_wan = -1
}
disable_update_check = true
