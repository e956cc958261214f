consul {
  token = "hunter2
}
