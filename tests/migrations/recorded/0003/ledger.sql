BEGIN TRANSACTION;
CREATE TABLE accounts (
	id VARCHAR(64) NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_accounts PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES('default',1795932982156);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
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
INSERT INTO "checkpoints" VALUES('01M8JZ5BG9CJ6YH9DW9JT2KAY4','01M8JZ5B4MJRN1ET4X84G83FXK',2,'finetunes/01M8JZ5B4MJRN1ET4X84G83FXK/00000002-9cd5adbec608.weights.safetensors','0161ab0a7a794fa991873900430943ad9fb5300edc90ebc59fb5cb67e45683e9',19040,1795932990984,1795932990984,NULL,NULL,NULL,NULL,NULL,'{"format": 1, "finetune_id": "01M8JZ5B4MJRN1ET4X84G83FXK", "name": "trained", "step": 2, "rank": 8, "adapter_seed": 584181672859559123, "base_model": {"name": "micro", "digest": "6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87"}, "parent": null, "origin": null, "files": [{"role": "weights", "path": "finetunes/01M8JZ5B4MJRN1ET4X84G83FXK/00000002-9cd5adbec608.weights.safetensors", "sha256": "0161ab0a7a794fa991873900430943ad9fb5300edc90ebc59fb5cb67e45683e9", "num_bytes": 19040}], "saved_at_ms": 1795932990984, "release": "moontune 0.1.0"}');
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
INSERT INTO "finetunes" VALUES(1,'01M8JZ5B4MJRN1ET4X84G83FXK','default','trained',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',3,1795932990616,1795932991154,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(2,'01M8JZ5B56SRGRKV7MFHVMFFTP','default','gone',8,5413846125573897419,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795932990633,1795932990791,1795932990791,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(3,'01M8JZ5B5MEMMSCYP0PTXHB2VD','default','untrained',8,4933835455504191953,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',0,1795932990645,1795932990645,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(4,'01M8JZ5BR37RNX87CEPD8P8TKF','default','begun',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795932991247,1795932991325,NULL,'01M8JZ5B4MJRN1ET4X84G83FXK@2',NULL,'finetunes/01M8JZ5BR37RNX87CEPD8P8TKF/00000000-e2a32ce899e1.weights.safetensors','0161ab0a7a794fa991873900430943ad9fb5300edc90ebc59fb5cb67e45683e9',19040);
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
INSERT INTO "meta" VALUES('dtype:01M8JZ5B56SRGRKV7MFHVMFFTP','float32');
INSERT INTO "meta" VALUES('dtype:01M8JZ5B4MJRN1ET4X84G83FXK','float32');
INSERT INTO "meta" VALUES('dtype:01M8JZ5BR37RNX87CEPD8P8TKF','float32');
CREATE TABLE metrics (
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	value FLOAT NOT NULL, 
	logged_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_metrics PRIMARY KEY (finetune_id, step, name), 
	CONSTRAINT fk_metrics_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/applied',1.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/router_kl',0.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/grad_norm',0.95719063557939,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/sft_loss',5.8931522369384765625e+00,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/lr',0.01,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/duration_ms',58.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/num_tokens',4.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/rollouts_dropped',0.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/groups_skipped',0.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/positions_computed',14.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/positions_saved',0.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/tokens_per_second',8.05693692294624526101e+01,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/images_per_second',0.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,'sys/peak_memory_bytes',412573696.0,1795932990748);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/applied',1.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/router_kl',0.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/grad_norm',9.99556623171838354302e-01,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/sft_loss',5.8931522369384765625e+00,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/lr',0.01,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/duration_ms',38.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/num_tokens',4.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/rollouts_dropped',0.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/groups_skipped',0.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/positions_computed',14.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/positions_saved',0.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/tokens_per_second',1.16697613901029839666e+02,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/images_per_second',0.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'sys/peak_memory_bytes',412704768.0,1795932990862);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/applied',1.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/router_kl',1.21798708278220146894e-03,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/grad_norm',1.01752626451985861422e+00,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/sft_loss',5.63139104843139648437e+00,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/lr',0.01,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/duration_ms',37.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/num_tokens',4.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/rollouts_dropped',0.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/groups_skipped',0.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/positions_computed',14.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/positions_saved',0.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/tokens_per_second',1.19588182546150946452e+02,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/images_per_second',0.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'sys/peak_memory_bytes',412835840.0,1795932990945);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/applied',1.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/router_kl',6.17012032307684421539e-03,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/grad_norm',1.17613658772697604604e+00,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/sft_loss',5.29867887496948242187e+00,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/lr',0.01,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/duration_ms',129.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/num_tokens',4.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/rollouts_dropped',0.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/groups_skipped',0.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/positions_computed',14.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/positions_saved',0.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/tokens_per_second',32.7107322480806,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/images_per_second',0.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'sys/peak_memory_bytes',412835840.0,1795932991154);
INSERT INTO "metrics" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'eval/score',0.5,1795932991216);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/applied',1.0,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/router_kl',6.17012032307684421539e-03,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/grad_norm',1.17613658772697604604e+00,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/sft_loss',5.29867887496948242187e+00,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/lr',0.01,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/duration_ms',49.0,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/num_tokens',4.0,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/rollouts_dropped',0.0,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/groups_skipped',0.0,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/positions_computed',14.0,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/positions_saved',0.0,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/tokens_per_second',9.55289399186043226581e+01,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/images_per_second',0.0,1795932991325);
INSERT INTO "metrics" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'sys/peak_memory_bytes',412835840.0,1795932991325);
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
INSERT INTO "train_requests" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,'b296545c29e4782a737d4e7c2869bc98a8c09b169b2e725c0a97ab1197093f34','delivered',1,1,0,1795932990819,1795932990862,1795932990876);
INSERT INTO "train_requests" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,'b296545c29e4782a737d4e7c2869bc98a8c09b169b2e725c0a97ab1197093f34','delivered',1,2,0,1795932990904,1795932990945,1795932990963);
INSERT INTO "train_requests" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,'b296545c29e4782a737d4e7c2869bc98a8c09b169b2e725c0a97ab1197093f34','delivered',1,3,0,1795932991010,1795932991154,1795932991175);
INSERT INTO "train_requests" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,'bf8daf592ac87cc7f2066c566ff3ee8c5cd3e642bec0bad0093e4e064b8c5097','delivered',1,1,0,1795932991270,1795932991325,1795932991338);
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
INSERT INTO "train_steps" VALUES('01M8JZ5B56SRGRKV7MFHVMFFTP',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.95719063557939,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":58,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":80.56936922946245,"images_per_second":0.0,"peak_memory_bytes":412573696,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JZ5B56SRGRKV7MFHVMFFTP/00000001-21c6dfdc273c.weights.safetensors','0b2a7a3d896749b5a0c8c45407d6a03ff17b29f0870783d963519c6c56363e7d',19040,'finetunes/01M8JZ5B56SRGRKV7MFHVMFFTP/00000001-21c6dfdc273c.optimizer.safetensors','cb7ecb04b08d3923068a7e2e373458faadd5602f3301f0eae6d666509c6aaf23',38208,1795932990748);
INSERT INTO "train_steps" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9995566231718384,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":38,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":116.69761390102984,"images_per_second":0.0,"peak_memory_bytes":412704768,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JZ5B4MJRN1ET4X84G83FXK/00000001-e4a3c1309eba.weights.safetensors','0e8b6cc63878e3a419ad9654c6a8befa68e963ca5c0920af46e824cd6517efee',19040,'finetunes/01M8JZ5B4MJRN1ET4X84G83FXK/00000001-e4a3c1309eba.optimizer.safetensors','5f0550149c97b7a635ebfdb7d63a488e177c69548c511254f0a36834fe294309',38208,1795932990862);
INSERT INTO "train_steps" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',2,1,'{"step":2,"applied":true,"kl":null,"router_kl":0.0012179870827822015,"grad_norm":1.0175262645198586,"reward_mean":null,"reward_std":null,"sft_loss":5.6313910484313965,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":37,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":119.58818254615095,"images_per_second":0.0,"peak_memory_bytes":412835840,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JZ5B4MJRN1ET4X84G83FXK/00000002-9cd5adbec608.weights.safetensors','0161ab0a7a794fa991873900430943ad9fb5300edc90ebc59fb5cb67e45683e9',19040,'finetunes/01M8JZ5B4MJRN1ET4X84G83FXK/00000002-9cd5adbec608.optimizer.safetensors','5c646bbb0531b69d955c05f5c23d7c8c14383f356c830065d0c41a8e7c101dc2',38208,1795932990945);
INSERT INTO "train_steps" VALUES('01M8JZ5B4MJRN1ET4X84G83FXK',3,1,'{"step":3,"applied":true,"kl":null,"router_kl":0.006170120323076844,"grad_norm":1.176136587726976,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":129,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":32.7107322480806,"images_per_second":0.0,"peak_memory_bytes":412835840,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JZ5B4MJRN1ET4X84G83FXK/00000003-fc69f8773187.weights.safetensors','fca304c571d00cd590eb6cbdfbd87c39633bf53d010b3cf6b815a387543de692',19040,'finetunes/01M8JZ5B4MJRN1ET4X84G83FXK/00000003-fc69f8773187.optimizer.safetensors','11dc501c4855590f7210112fa274ab64716303fff6a0ec2e7a1cfc1593610cae',38208,1795932991154);
INSERT INTO "train_steps" VALUES('01M8JZ5BR37RNX87CEPD8P8TKF',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.006170120323076844,"grad_norm":1.176136587726976,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":49,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":95.52893991860432,"images_per_second":0.0,"peak_memory_bytes":412835840,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JZ5BR37RNX87CEPD8P8TKF/00000001-0d3b8b95f71f.weights.safetensors','a06084cf9dbaff8264fd9bb9468cda362bc3e36a23a7b55ed005048dcc8f67e8',19040,'finetunes/01M8JZ5BR37RNX87CEPD8P8TKF/00000001-0d3b8b95f71f.optimizer.safetensors','d829718e81bad16d9bcb23caf44ec068727d261dc90589eccf0500422d42ca64',38208,1795932991325);
CREATE UNIQUE INDEX uq_finetunes_living_name ON finetunes (account_id, name) WHERE deleted_at_ms IS NULL;
CREATE UNIQUE INDEX uq_checkpoints_living_step ON checkpoints (finetune_id, step) WHERE deleted_at_ms IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('finetunes',4);
COMMIT;
