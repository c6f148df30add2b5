-- A store of layout 1: the tables as that version made them, and rows as it wrote them.
CREATE TABLE workspace (one INTEGER PRIMARY KEY CHECK (one = 1), record TEXT NOT NULL) STRICT;
CREATE TABLE command (
    sequence INTEGER PRIMARY KEY, command TEXT NOT NULL, cwd TEXT NOT NULL, exit_code INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL, recorded_at REAL NOT NULL, stdout_bytes INTEGER NOT NULL,
    stderr_bytes INTEGER NOT NULL, stdout_truncated INTEGER NOT NULL, stderr_truncated INTEGER NOT NULL,
    interrupted TEXT
) STRICT;
CREATE TABLE snapshot (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, created_at REAL NOT NULL, entry_count INTEGER NOT NULL,
    bytes_written INTEGER NOT NULL, memory INTEGER NOT NULL
) STRICT;
CREATE TABLE job (
    kind TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (kind, name)
) STRICT;
PRAGMA user_version = 1;
INSERT INTO workspace VALUES (1, '{"id":"0123456789ab","name":"old","labels":{"issue":"42"},"environment":"debian:12","environment_version":"cafecafecafe","vcpu_count":1,"mem_mib":1024,"ttl_seconds":600,"created_at":1700000000.5,"last_activity_at":1700000100.25,"allow_host_compat":false,"seed":{"mode":"empty","seed_path":null,"destination":"/workspace","entry_count":0,"bytes_written":0},"secrets":[],"reset_count":1,"last_reset_at":1700000050.0,"backend":"qemu","accelerator":"tcg","metadata":{"start":"restored"}}');
INSERT INTO command VALUES (1, 'git clone x', '/workspace', 0, 1200, 1700000010.0, 90, 5, 0, 0, NULL);
INSERT INTO command VALUES (3, 'sleep 1000', '/workspace', 124, 30000, 1700000090.0, 0, 0, 0, 0, 'timeout');
INSERT INTO snapshot VALUES ('baseline', 'baseline', 1700000001.0, 0, 294912, 0);
INSERT INTO job VALUES ('shell', 'ab12', '{"workspace_id":"0123456789ab","shell_id":"ab12","cwd":"/workspace","cols":80,"rows":24,"state":"stopped","started_at":1700000020.0,"ended_at":1700000030.0,"exit_code":0,"execution_mode":"guest_vsock","stop_reason":null}');
