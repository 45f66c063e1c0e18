# A program of the host, in no sandbox: only where the operator enables that (`[process] enabled = true`, or
# `plugin "raw_exec"` in a client's configuration). On each node of the class `storage` once.
job "disks" {
  type = "sysbatch"

  constraint {
    attribute = "${node.class}"
    value     = "storage"
  }

  task "look" {
    driver = "raw_exec"

    config {
      command = "/bin/df"
      args    = ["-h"]
    }
  }
}
