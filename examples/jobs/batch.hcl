# Work that ends: tried again three times on its node, then once more on another.
job "report" {
  type = "batch"

  group "report" {
    restart {
      attempts = 3
      interval = "10m"
      delay    = "15s"
    }

    reschedule {
      attempts = 1
      interval = "24h"
    }

    task "count" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "ls /usr/bin | wc -l > /alloc/data/programs; cat /alloc/data/programs"]
      }

      resources {
        cpu    = 100
        memory = 32
      }
    }
  }
}
