consul {
  token   = ["hunter2"]
}
admin { token = "hunter2" + 1 }
