BEGIN TRANSACTION;
CREATE TABLE accounts (
	id VARCHAR(64) NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_accounts PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES('default',1795948689346);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0006');
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
	deleted_at_ms BIGINT, exchange_path TEXT, exchange_digest VARCHAR(64), exchange_num_bytes BIGINT, exchange_manifest TEXT, manifest TEXT, number BIGINT DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT fk_checkpoints_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "checkpoints" VALUES('01M8KE4HB0MN3X4K63CHWRDZHZ','01M8KE4H4KF7TB1YVS75G19C3A',2,'finetunes/01M8KE4H4KF7TB1YVS75G19C3A/00000002-8647fd1ef024.weights.safetensors','ae45644bacb6fe84b7ba647937ef76512b12d31e507305952d81fe15ffd9a560',19040,1795948692831,1795948692831,NULL,NULL,NULL,NULL,NULL,'{"format": 1, "finetune_id": "01M8KE4H4KF7TB1YVS75G19C3A", "name": "trained", "step": 2, "rank": 8, "adapter_seed": 584181672859559123, "base_model": {"name": "micro", "digest": "6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87"}, "parent": null, "origin": null, "files": [{"role": "weights", "path": "finetunes/01M8KE4H4KF7TB1YVS75G19C3A/00000002-8647fd1ef024.weights.safetensors", "sha256": "ae45644bacb6fe84b7ba647937ef76512b12d31e507305952d81fe15ffd9a560", "num_bytes": 19040}], "saved_at_ms": 1795948692831, "release": "moontune 0.1.0"}',1);
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
INSERT INTO "finetunes" VALUES(1,'01M8KE4H4KF7TB1YVS75G19C3A','default','trained',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',3,1795948692630,1795948692859,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(2,'01M8KE4H52KKHSQ8VT49S5E57C','default','gone',8,5413846125573897419,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795948692643,1795948692732,1795948692732,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(3,'01M8KE4H5BXBHYNBZ0NQTZ6G3H','default','untrained',8,4933835455504191953,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',0,1795948692652,1795948692652,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(4,'01M8KE4HCPHRP2HZY2ZEV8N0GQ','default','begun',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795948692891,1795948692916,NULL,'01M8KE4H4KF7TB1YVS75G19C3A@2',NULL,'finetunes/01M8KE4HCPHRP2HZY2ZEV8N0GQ/00000000-d169c84cc4f5.weights.safetensors','ae45644bacb6fe84b7ba647937ef76512b12d31e507305952d81fe15ffd9a560',19040);
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
INSERT INTO "meta" VALUES('dtype:01M8KE4H52KKHSQ8VT49S5E57C','float32');
INSERT INTO "meta" VALUES('dtype:01M8KE4H4KF7TB1YVS75G19C3A','float32');
INSERT INTO "meta" VALUES('dtype:01M8KE4HCPHRP2HZY2ZEV8N0GQ','float32');
CREATE TABLE metrics (
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	value FLOAT NOT NULL, 
	logged_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_metrics PRIMARY KEY (finetune_id, step, name), 
	CONSTRAINT fk_metrics_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/applied',1.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/router_kl',0.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/grad_norm',9.57190561083743118864e-01,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/sft_loss',5.8931522369384765625e+00,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/lr',0.01,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/duration_ms',28.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/num_tokens',4.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/rollouts_dropped',0.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/groups_skipped',0.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/positions_computed',14.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/positions_saved',0.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/tokens_per_second',1.75736045163567695219e+02,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/images_per_second',0.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,'sys/peak_memory_bytes',418115584.0,1795948692702);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/applied',1.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/router_kl',0.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/grad_norm',9.99556560167840779662e-01,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/sft_loss',5.8931522369384765625e+00,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/lr',0.01,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/duration_ms',18.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/num_tokens',4.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/rollouts_dropped',0.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/groups_skipped',0.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/positions_computed',14.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/positions_saved',0.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/tokens_per_second',2.74209925806327362344e+02,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/images_per_second',0.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'sys/peak_memory_bytes',418115584.0,1795948692774);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/applied',1.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/router_kl',1.21797276369761675596e-03,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/grad_norm',1.01752622318256813471e+00,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/sft_loss',5.63139057159423828125e+00,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/lr',0.01,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/duration_ms',19.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/num_tokens',4.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/rollouts_dropped',0.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/groups_skipped',0.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/positions_computed',14.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/positions_saved',0.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/tokens_per_second',2.44486956639367349454e+02,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/images_per_second',0.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'sys/peak_memory_bytes',418115584.0,1795948692814);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/applied',1.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/router_kl',0.00617012067232281,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/grad_norm',1.17613641370450627832e+00,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/sft_loss',5.29867887496948242187e+00,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/lr',0.01,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/duration_ms',16.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/num_tokens',4.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/rollouts_dropped',0.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/groups_skipped',0.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/positions_computed',14.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/positions_saved',0.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/tokens_per_second',2.97654859219445029339e+02,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/images_per_second',0.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'sys/peak_memory_bytes',418115584.0,1795948692859);
INSERT INTO "metrics" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'eval/score',0.5,1795948692880);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/applied',1.0,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/router_kl',0.00617012067232281,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/grad_norm',1.17613641370450627832e+00,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/sft_loss',5.29867887496948242187e+00,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/lr',0.01,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/duration_ms',15.0,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/num_tokens',4.0,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/rollouts_dropped',0.0,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/groups_skipped',0.0,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/positions_computed',14.0,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/positions_saved',0.0,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/tokens_per_second',3.0128168239418874918e+02,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/images_per_second',0.0,1795948692916);
INSERT INTO "metrics" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'sys/peak_memory_bytes',418246656.0,1795948692916);
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
INSERT INTO "train_requests" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,'b1c99419ab5f8a215dab557963b213fed9964fe4b2e3861af1c3a2c621dea4c7','delivered',1,1,0,1795948692752,1795948692774,1795948692784);
INSERT INTO "train_requests" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,'b1c99419ab5f8a215dab557963b213fed9964fe4b2e3861af1c3a2c621dea4c7','delivered',1,2,0,1795948692793,1795948692814,1795948692821);
INSERT INTO "train_requests" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,'b1c99419ab5f8a215dab557963b213fed9964fe4b2e3861af1c3a2c621dea4c7','delivered',1,3,0,1795948692842,1795948692859,1795948692866);
INSERT INTO "train_requests" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,'1e281bedba53ea08c367148fdaba64451a6aada7c99df681ef67e2680a120d3a','delivered',1,1,0,1795948692899,1795948692916,1795948692925);
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
INSERT INTO "train_steps" VALUES('01M8KE4H52KKHSQ8VT49S5E57C',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9571905610837431,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":28,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":175.7360451635677,"images_per_second":0.0,"peak_memory_bytes":418115584,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KE4H52KKHSQ8VT49S5E57C/00000001-fe4c0fc8336f.weights.safetensors','3044f28ff7e727d0c89c818a0f6cdd8f941dc24d14cb744260f68a6c3bdd4061',19040,'finetunes/01M8KE4H52KKHSQ8VT49S5E57C/00000001-fe4c0fc8336f.optimizer.safetensors','5e1c056e3762a9d0e375637ce22d9dfbdf925a7231b1f7ab7512c13626c8d515',38208,1795948692702);
INSERT INTO "train_steps" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9995565601678408,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":18,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":274.20992580632736,"images_per_second":0.0,"peak_memory_bytes":418115584,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KE4H4KF7TB1YVS75G19C3A/00000001-a57ae95ac154.weights.safetensors','dd1ae1e02da8f242913cd505772825a4034887ea7a50e3715ce41d52ffe6740d',19040,'finetunes/01M8KE4H4KF7TB1YVS75G19C3A/00000001-a57ae95ac154.optimizer.safetensors','7587aa555ccb35d2e5d93307d3db67493e4091d54cc8d9988725046756fb8d52',38208,1795948692774);
INSERT INTO "train_steps" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',2,1,'{"step":2,"applied":true,"kl":null,"router_kl":0.0012179727636976168,"grad_norm":1.0175262231825681,"reward_mean":null,"reward_std":null,"sft_loss":5.631390571594238,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":19,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":244.48695663936735,"images_per_second":0.0,"peak_memory_bytes":418115584,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KE4H4KF7TB1YVS75G19C3A/00000002-8647fd1ef024.weights.safetensors','ae45644bacb6fe84b7ba647937ef76512b12d31e507305952d81fe15ffd9a560',19040,'finetunes/01M8KE4H4KF7TB1YVS75G19C3A/00000002-8647fd1ef024.optimizer.safetensors','afb6a43f2ee66cde49f351f3719731d633a8384e83eb2cfa706ed6150b37223c',38208,1795948692814);
INSERT INTO "train_steps" VALUES('01M8KE4H4KF7TB1YVS75G19C3A',3,1,'{"step":3,"applied":true,"kl":null,"router_kl":0.00617012067232281,"grad_norm":1.1761364137045063,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":16,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":297.65485921944503,"images_per_second":0.0,"peak_memory_bytes":418115584,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KE4H4KF7TB1YVS75G19C3A/00000003-68d9bc927df2.weights.safetensors','1c1e3822329dda5f7cdf8ef1ffc92ccc4210b84b8e0b0e6aafdafbfb5b8c3b34',19040,'finetunes/01M8KE4H4KF7TB1YVS75G19C3A/00000003-68d9bc927df2.optimizer.safetensors','0cb667b44c5f4728782598c583428ad5e376830a8deaafdc05154b693428dc5d',38208,1795948692859);
INSERT INTO "train_steps" VALUES('01M8KE4HCPHRP2HZY2ZEV8N0GQ',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.00617012067232281,"grad_norm":1.1761364137045063,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":15,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":301.28168239418875,"images_per_second":0.0,"peak_memory_bytes":418246656,"reward_by_skill":{},"warnings":[]}','finetunes/01M8KE4HCPHRP2HZY2ZEV8N0GQ/00000001-21e50fc0e539.weights.safetensors','172e22d69fea212d5589e71fd4602d4f4d1fdc8445471c41c464d3f6b5b5412c',19040,'finetunes/01M8KE4HCPHRP2HZY2ZEV8N0GQ/00000001-21e50fc0e539.optimizer.safetensors','ddc91a649d20002a5e15677fab910bfa1469b2a950d99ec2c7a5524fc94fa38f',38208,1795948692916);
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
INSERT INTO "usage_hours" VALUES('default',1795946400000,'01M8KE4H52KKHSQ8VT49S5E57C','',2,0,0,0,4,1,28,0);
INSERT INTO "usage_hours" VALUES('default',1795946400000,'01M8KE4H4KF7TB1YVS75G19C3A','',5,0,0,0,12,3,53,0);
INSERT INTO "usage_hours" VALUES('default',1795946400000,'01M8KE4HCPHRP2HZY2ZEV8N0GQ','',1,0,0,0,4,1,15,0);
INSERT INTO "usage_hours" VALUES('default',1795946400000,'','',4,0,0,0,0,0,0,190784);
CREATE UNIQUE INDEX uq_finetunes_living_name ON finetunes (account_id, name) WHERE deleted_at_ms IS NULL;
CREATE UNIQUE INDEX uq_checkpoints_living_step ON checkpoints (finetune_id, step) WHERE deleted_at_ms IS NULL;
CREATE INDEX ix_refusals_account_id ON refusals (account_id, id);
CREATE UNIQUE INDEX uq_checkpoints_number ON checkpoints (finetune_id, number);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('finetunes',4);
COMMIT;
