BEGIN TRANSACTION;
CREATE TABLE accounts (
	id VARCHAR(64) NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_accounts PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES('default',1795946720168);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0005');
CREATE TABLE api_keys (
	id VARCHAR(26) NOT NULL, 
	account_id VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	prefix VARCHAR(16) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	scope VARCHAR(16) NOT NULL, 
	requests_per_minute BIGINT, 
	max_concurrent_rollouts BIGINT, 
	max_finetunes BIGINT, 
	max_stored_bytes BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	last_used_at_ms BIGINT, 
	revoked_at_ms BIGINT, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT ck_api_keys_scope CHECK (scope IN ('full', 'inference', 'read')), 
	CONSTRAINT fk_api_keys_account_id FOREIGN KEY(account_id) REFERENCES accounts (id), 
	CONSTRAINT uq_api_keys_digest UNIQUE (digest)
);
CREATE TABLE batch_files (
	batch_id VARCHAR(26) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	number INTEGER NOT NULL, 
	path TEXT NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	num_bytes BIGINT NOT NULL, 
	CONSTRAINT pk_batch_files PRIMARY KEY (batch_id, kind, number), 
	CONSTRAINT ck_batch_files_kind CHECK (kind IN ('part', 'answers', 'output')), 
	CONSTRAINT fk_batch_files_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id)
);
CREATE TABLE batches (
	ordinal INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(26) NOT NULL, 
	account_id VARCHAR(64) NOT NULL, 
	upload_id VARCHAR(26) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	model TEXT, 
	seed BIGINT NOT NULL, 
	base_model_digest VARCHAR(64), 
	num_bytes BIGINT NOT NULL, 
	num_lines INTEGER NOT NULL, 
	num_answered INTEGER NOT NULL, 
	num_failed INTEGER NOT NULL, 
	next_byte BIGINT NOT NULL, 
	input_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	worked_seconds FLOAT NOT NULL, 
	error_code VARCHAR(64), 
	error_message TEXT, 
	created_at_ms BIGINT NOT NULL, 
	ended_at_ms BIGINT, 
	CONSTRAINT ck_batches_state CHECK (state IN ('uploading', 'chunking', 'processing', 'completed', 'failed', 'removed')), 
	CONSTRAINT ck_batches_progress CHECK (0 <= num_failed AND num_failed <= num_answered AND num_answered <= num_lines), 
	CONSTRAINT ck_batches_error CHECK ((state = 'failed') = (error_code IS NOT NULL)), 
	CONSTRAINT fk_batches_account_id FOREIGN KEY(account_id) REFERENCES accounts (id), 
	CONSTRAINT uq_batches_id UNIQUE (id)
);
CREATE TABLE checkpoints (
	id VARCHAR(26) NOT NULL, 
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	weights_path TEXT, 
	weights_digest VARCHAR(64), 
	weights_num_bytes BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	deleted_at_ms BIGINT, exchange_path TEXT, exchange_digest VARCHAR(64), exchange_num_bytes BIGINT, exchange_manifest TEXT, manifest TEXT, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT fk_checkpoints_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "checkpoints" VALUES('01M8KC8TFZZBEVD1ZSDH6S3T2X','01M8KC8SX303Z6QZ8NDJSYWRB7',2,'finetunes/01M8KC8SX303Z6QZ8NDJSYWRB7/00000002-c05665c94ea4.weights.safetensors','b060bfb169a4702870c40dcdc03470241d374e044647492a543a01bb09ffb718',19040,1795946736126,1795946736126,NULL,NULL,NULL,NULL,NULL,'{"format": 1, "finetune_id": "01M8KC8SX303Z6QZ8NDJSYWRB7", "name": "trained", "step": 2, "rank": 8, "adapter_seed": 584181672859559123, "base_model": {"name": "micro", "digest": "6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87"}, "parent": null, "origin": null, "files": [{"role": "weights", "path": "finetunes/01M8KC8SX303Z6QZ8NDJSYWRB7/00000002-c05665c94ea4.weights.safetensors", "sha256": "b060bfb169a4702870c40dcdc03470241d374e044647492a543a01bb09ffb718", "num_bytes": 19040}], "saved_at_ms": 1795946736126, "release": "moontune 0.1.0"}');
CREATE TABLE finetunes (
	ordinal INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(26) NOT NULL, 
	account_id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	rank INTEGER NOT NULL, 
	adapter_seed BIGINT NOT NULL, 
	base_model_name TEXT, 
	base_model_digest VARCHAR(64), 
	step BIGINT NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	deleted_at_ms BIGINT, origin TEXT, origin_manifest TEXT, origin_weights_path TEXT, origin_weights_digest VARCHAR(64), origin_weights_num_bytes BIGINT, 
	CONSTRAINT ck_finetunes_rank CHECK (rank IN (8, 16, 24, 32)), 
	CONSTRAINT ck_finetunes_step CHECK (step >= 0), 
	CONSTRAINT fk_finetunes_account_id FOREIGN KEY(account_id) REFERENCES accounts (id), 
	CONSTRAINT uq_finetunes_id UNIQUE (id)
);
INSERT INTO "finetunes" VALUES(1,'01M8KC8SX303Z6QZ8NDJSYWRB7','default','trained',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',3,1795946735537,1795946736277,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(2,'01M8KC8SZESTK231TXMZ6JTGXG','default','gone',8,5413846125573897419,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795946735598,1795946735818,1795946735818,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(3,'01M8KC8SZK6PS77HY2QPTEPMF2','default','untrained',8,4933835455504191953,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',0,1795946735604,1795946735604,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(4,'01M8KC8TNEN7FCCCBJWD92SAD0','default','begun',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795946736316,1795946736399,NULL,'01M8KC8SX303Z6QZ8NDJSYWRB7@2',NULL,'finetunes/01M8KC8TNEN7FCCCBJWD92SAD0/00000000-6637593d875a.weights.safetensors','b060bfb169a4702870c40dcdc03470241d374e044647492a543a01bb09ffb718',19040);
CREATE TABLE idempotency_keys (
	account_id VARCHAR(64) NOT NULL, 
	path VARCHAR(255) NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	response TEXT NOT NULL, 
	finetune_id VARCHAR(26), 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_idempotency_keys PRIMARY KEY (account_id, path, "key"), 
	CONSTRAINT fk_idempotency_keys_account_id FOREIGN KEY(account_id) REFERENCES accounts (id)
);
CREATE TABLE meta (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_meta PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('release','moontune 0.1.0');
INSERT INTO "meta" VALUES('epoch','1');
INSERT INTO "meta" VALUES('dtype:01M8KC8SZESTK231TXMZ6JTGXG','float32');
INSERT INTO "meta" VALUES('dtype:01M8KC8SX303Z6QZ8NDJSYWRB7','float32');
INSERT INTO "meta" VALUES('dtype:01M8KC8TNEN7FCCCBJWD92SAD0','float32');
CREATE TABLE metrics (
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	value FLOAT NOT NULL, 
	logged_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_metrics PRIMARY KEY (finetune_id, step, name), 
	CONSTRAINT fk_metrics_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/applied',1.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/router_kl',0.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/grad_norm',9.57190561083743118864e-01,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/sft_loss',5.8931522369384765625e+00,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/lr',0.01,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/duration_ms',174.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/num_tokens',4.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/rollouts_dropped',0.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/groups_skipped',0.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/positions_computed',14.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/positions_saved',0.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/tokens_per_second',2.35164359486306118185e+01,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/images_per_second',0.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,'sys/peak_memory_bytes',418488320.0,1795946735792);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/applied',1.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/router_kl',0.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/grad_norm',9.99556560167840779662e-01,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/sft_loss',5.8931522369384765625e+00,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/lr',0.01,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/duration_ms',41.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/num_tokens',4.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/rollouts_dropped',0.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/groups_skipped',0.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/positions_computed',14.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/positions_saved',0.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/tokens_per_second',1.07009287576807977872e+02,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/images_per_second',0.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'sys/peak_memory_bytes',418619392.0,1795946735880);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/applied',1.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/router_kl',1.21797276369761675596e-03,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/grad_norm',1.01752622318256813471e+00,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/sft_loss',5.63139057159423828125e+00,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/lr',0.01,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/duration_ms',19.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/num_tokens',4.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/rollouts_dropped',0.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/groups_skipped',0.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/positions_computed',14.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/positions_saved',0.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/tokens_per_second',2.39915252339186650947e+02,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/images_per_second',0.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'sys/peak_memory_bytes',418619392.0,1795946735944);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/applied',1.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/router_kl',0.00617012067232281,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/grad_norm',1.17613641370450627832e+00,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/sft_loss',5.29867887496948242187e+00,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/lr',0.01,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/duration_ms',137.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/num_tokens',4.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/rollouts_dropped',0.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/groups_skipped',0.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/positions_computed',14.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/positions_saved',0.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/tokens_per_second',3.05932283968546911987e+01,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/images_per_second',0.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'sys/peak_memory_bytes',418619392.0,1795946736277);
INSERT INTO "metrics" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'eval/score',0.5,1795946736297);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/applied',1.0,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/router_kl',0.00617012067232281,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/grad_norm',1.17613641370450627832e+00,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/sft_loss',5.29867887496948242187e+00,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/lr',0.01,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/duration_ms',15.0,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/num_tokens',4.0,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/rollouts_dropped',0.0,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/groups_skipped',0.0,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/positions_computed',14.0,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/positions_saved',0.0,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/tokens_per_second',3.22801608073841407521e+02,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/images_per_second',0.0,1795946736399);
INSERT INTO "metrics" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'sys/peak_memory_bytes',418750464.0,1795946736399);
CREATE TABLE refusals (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	account_id VARCHAR(64) NOT NULL, 
	at_ms BIGINT NOT NULL, 
	request_id VARCHAR(128) NOT NULL, 
	method VARCHAR(16) NOT NULL, 
	path VARCHAR(255) NOT NULL, 
	status INTEGER NOT NULL, 
	code VARCHAR(64) NOT NULL, 
	message VARCHAR(300) NOT NULL, 
	finetune_id VARCHAR(26), 
	CONSTRAINT fk_refusals_account_id FOREIGN KEY(account_id) REFERENCES accounts (id)
);
CREATE TABLE train_requests (
	finetune_id VARCHAR(26) NOT NULL, 
	seq BIGINT NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	epoch BIGINT NOT NULL, 
	step BIGINT, 
	num_replays INTEGER NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	done_at_ms BIGINT, 
	delivered_at_ms BIGINT, 
	CONSTRAINT pk_train_requests PRIMARY KEY (finetune_id, seq), 
	CONSTRAINT ck_train_requests_state CHECK (state IN ('running', 'done', 'delivered')), 
	CONSTRAINT ck_train_requests_step CHECK ((state = 'running') = (step IS NULL)), 
	CONSTRAINT fk_train_requests_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id), 
	CONSTRAINT uq_train_requests_finetune_id UNIQUE (finetune_id, step)
);
INSERT INTO "train_requests" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,'741064186fdd6d077f0eab6515fe34cbadaf0bde3053c109377af96da6575908','delivered',1,1,0,1795946735835,1795946735880,1795946735891);
INSERT INTO "train_requests" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,'741064186fdd6d077f0eab6515fe34cbadaf0bde3053c109377af96da6575908','delivered',1,2,0,1795946735902,1795946735944,1795946736050);
INSERT INTO "train_requests" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,'741064186fdd6d077f0eab6515fe34cbadaf0bde3053c109377af96da6575908','delivered',1,3,0,1795946736137,1795946736277,1795946736290);
INSERT INTO "train_requests" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,'aeadac2f4ebf7b3fce40667cb4541327b3d9322d75290794816d4debe5668962','delivered',1,1,0,1795946736335,1795946736399,1795946736413);
CREATE TABLE train_steps (
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	applied BOOLEAN NOT NULL, 
	response TEXT NOT NULL, 
	weights_path TEXT, 
	weights_digest VARCHAR(64), 
	weights_num_bytes BIGINT, 
	optimizer_path TEXT, 
	optimizer_digest VARCHAR(64), 
	optimizer_num_bytes BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_train_steps PRIMARY KEY (finetune_id, step), 
	CONSTRAINT fk_train_steps_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "train_steps" VALUES('01M8KC8SZESTK231TXMZ6JTGXG',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9571905610837431,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":174,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":23.516435948630612,"images_per_second":0.0,"peak_memory_bytes":418488320,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KC8SZESTK231TXMZ6JTGXG/00000001-1aa906f22cef.weights.safetensors','071969eff0164c9c728ffa059d575c18e111987fb739ddc3aedbfa738757ba59',19040,'finetunes/01M8KC8SZESTK231TXMZ6JTGXG/00000001-1aa906f22cef.optimizer.safetensors','5760f8af65711ef42b0d5a94f7a3133c469be11cba21e2e0e4f1fc64a740103a',38208,1795946735792);
INSERT INTO "train_steps" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9995565601678408,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":41,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":107.00928757680798,"images_per_second":0.0,"peak_memory_bytes":418619392,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KC8SX303Z6QZ8NDJSYWRB7/00000001-713ec740761e.weights.safetensors','14846095b6cd6957281126b22087a25e7b5c514de0f60f734c9d21e6d564f8ab',19040,'finetunes/01M8KC8SX303Z6QZ8NDJSYWRB7/00000001-713ec740761e.optimizer.safetensors','0ae7c7e0692ee71f9fcccb01b6f40c9a893f959b0cf5b7b896ac109ae910ab33',38208,1795946735880);
INSERT INTO "train_steps" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',2,1,'{"step":2,"applied":true,"kl":null,"router_kl":0.0012179727636976168,"grad_norm":1.0175262231825681,"reward_mean":null,"reward_std":null,"sft_loss":5.631390571594238,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":19,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":239.91525233918665,"images_per_second":0.0,"peak_memory_bytes":418619392,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KC8SX303Z6QZ8NDJSYWRB7/00000002-c05665c94ea4.weights.safetensors','b060bfb169a4702870c40dcdc03470241d374e044647492a543a01bb09ffb718',19040,'finetunes/01M8KC8SX303Z6QZ8NDJSYWRB7/00000002-c05665c94ea4.optimizer.safetensors','54a9881742feaf198ec4730dd444aa9c85307b1dd1f1b915e425be0c0da6a281',38208,1795946735944);
INSERT INTO "train_steps" VALUES('01M8KC8SX303Z6QZ8NDJSYWRB7',3,1,'{"step":3,"applied":true,"kl":null,"router_kl":0.00617012067232281,"grad_norm":1.1761364137045063,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":137,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":30.59322839685469,"images_per_second":0.0,"peak_memory_bytes":418619392,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KC8SX303Z6QZ8NDJSYWRB7/00000003-544fa5bd1e63.weights.safetensors','2c8af43d804f0cf93266ac4e2159e4cdce64d570d7101c12f1954c20b7fcc268',19040,'finetunes/01M8KC8SX303Z6QZ8NDJSYWRB7/00000003-544fa5bd1e63.optimizer.safetensors','9aa1e40ae091dda1eaec177f682c4c4c64d3530e4e0d1dffb18436f6bb8482f0',38208,1795946736277);
INSERT INTO "train_steps" VALUES('01M8KC8TNEN7FCCCBJWD92SAD0',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.00617012067232281,"grad_norm":1.1761364137045063,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":15,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":322.8016080738414,"images_per_second":0.0,"peak_memory_bytes":418750464,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KC8TNEN7FCCCBJWD92SAD0/00000001-a0eddabb7536.weights.safetensors','4900194e1b03e5d6ef8d078432c7b72b810079c99a41c34284ca42042e7cb159',19040,'finetunes/01M8KC8TNEN7FCCCBJWD92SAD0/00000001-a0eddabb7536.optimizer.safetensors','faa2a0d42fbb73e4cb8d7fedc7ee53c2ec80803b08fcef9d6d6273f43e5536ca',38208,1795946736399);
CREATE TABLE usage_hours (
	account_id VARCHAR(64) NOT NULL, 
	start_at_ms BIGINT NOT NULL, 
	finetune_id VARCHAR(26) NOT NULL, 
	key_id VARCHAR(26) NOT NULL, 
	requests BIGINT NOT NULL, 
	images BIGINT NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	generated_tokens BIGINT NOT NULL, 
	training_tokens BIGINT NOT NULL, 
	steps BIGINT NOT NULL, 
	compute_ms BIGINT NOT NULL, 
	stored_bytes BIGINT NOT NULL, 
	CONSTRAINT pk_usage_hours PRIMARY KEY (account_id, start_at_ms, finetune_id, key_id), 
	CONSTRAINT fk_usage_hours_account_id FOREIGN KEY(account_id) REFERENCES accounts (id)
);
INSERT INTO "usage_hours" VALUES('default',1795946400000,'01M8KC8SZESTK231TXMZ6JTGXG','',2,0,0,0,4,1,174,0);
INSERT INTO "usage_hours" VALUES('default',1795946400000,'01M8KC8SX303Z6QZ8NDJSYWRB7','',5,0,0,0,12,3,198,0);
INSERT INTO "usage_hours" VALUES('default',1795946400000,'01M8KC8TNEN7FCCCBJWD92SAD0','',1,0,0,0,4,1,15,0);
INSERT INTO "usage_hours" VALUES('default',1795946400000,'','',4,0,0,0,0,0,0,190784);
CREATE UNIQUE INDEX uq_finetunes_living_name ON finetunes (account_id, name) WHERE deleted_at_ms IS NULL;
CREATE UNIQUE INDEX uq_checkpoints_living_step ON checkpoints (finetune_id, step) WHERE deleted_at_ms IS NULL;
CREATE INDEX ix_refusals_account_id ON refusals (account_id, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('finetunes',4);
COMMIT;
