# A job: what should run. `moat job run example.hcl` declares it, `moat job status example` shows where it runs.
job "example" {
  # service: for ever. batch: to its end. system and sysbatch: the same, once on every node.
  type = "service"

  # Instances of a group run on one node each.
  group "web" {
    count = 1

    # A task that fails is started again on its node, so often in so long; then the group is placed anew.
    restart {
      attempts = 2
      interval = "30m"
      delay    = "15s"
      mode     = "fail"
    }

    # One program, in a container of its own that sees the node's programs and the allocation's directories.
    task "clock" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "while true; do date; sleep 5; done"]
      }

      # MHz, a share when the node is busy; MiB, a limit.
      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
