client {
    enabled = true
}

plugin "raw_exec" {
    config {
        enabled = true
    }
}
