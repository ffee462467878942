BEGIN TRANSACTION;
CREATE TABLE accounts (
	id VARCHAR(64) NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_accounts PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES('default',1795930168749);
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
INSERT INTO "checkpoints" VALUES('01M8JWFK4X3DMWB30W4PJHM3MC','01M8JWFJKD6WEDC49FKZ5EH3WH',2,'finetunes/01M8JWFJKD6WEDC49FKZ5EH3WH/00000002-813aa7571826.weights.safetensors','d53257dfa7eb4edce799202a5e0b53fc7e6eaf678793330e8c7f262009d951b0',19040,1795930180765,1795930180765,NULL,NULL,NULL,NULL,NULL,NULL);
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
INSERT INTO "finetunes" VALUES(1,'01M8JWFJKD6WEDC49FKZ5EH3WH','default','trained',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',3,1795930180208,1795930180899,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(2,'01M8JWFJKX9Z9HJG9BBM1176PS','default','gone',8,5413846125573897419,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795930180222,1795930180434,1795930180434,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(3,'01M8JWFJM986H1GT2NXMSMKQF5','default','untrained',8,4933835455504191953,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',0,1795930180234,1795930180234,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "finetunes" VALUES(4,'01M8JWFKANW7YGFGTWK2MF0BPP','default','begun',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795930180970,1795930181088,NULL,'01M8JWFJKD6WEDC49FKZ5EH3WH@2',NULL,'finetunes/01M8JWFKANW7YGFGTWK2MF0BPP/00000000-b11a92412ae1.weights.safetensors','d53257dfa7eb4edce799202a5e0b53fc7e6eaf678793330e8c7f262009d951b0',19040);
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
INSERT INTO "meta" VALUES('epoch','1');
CREATE TABLE metrics (
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	value FLOAT NOT NULL, 
	logged_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_metrics PRIMARY KEY (finetune_id, step, name), 
	CONSTRAINT fk_metrics_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/applied',1.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/router_kl',0.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/grad_norm',0.95719063557939,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/sft_loss',5.8931522369384765625e+00,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/lr',0.01,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/duration_ms',88.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/num_tokens',4.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/rollouts_dropped',0.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/groups_skipped',0.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/positions_computed',14.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/positions_saved',0.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/tokens_per_second',5.1151077636399406856e+01,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/images_per_second',0.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,'sys/peak_memory_bytes',411828224.0,1795930180350);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/applied',1.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/router_kl',0.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/grad_norm',9.99556623171838354302e-01,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/sft_loss',5.8931522369384765625e+00,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/lr',0.01,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/duration_ms',94.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/num_tokens',4.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/rollouts_dropped',0.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/groups_skipped',0.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/positions_computed',14.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/positions_saved',0.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/tokens_per_second',4.68738356612623689994e+01,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/images_per_second',0.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'sys/peak_memory_bytes',411828224.0,1795930180561);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/applied',1.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/router_kl',1.21798708278220146894e-03,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/grad_norm',1.01752626451985861422e+00,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/sft_loss',5.63139104843139648437e+00,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/lr',0.01,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/duration_ms',88.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/num_tokens',4.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/rollouts_dropped',0.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/groups_skipped',0.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/positions_computed',14.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/positions_saved',0.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/tokens_per_second',49.3402389768421,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/images_per_second',0.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'sys/peak_memory_bytes',411828224.0,1795930180720);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/applied',1.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/router_kl',6.17012032307684421539e-03,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/grad_norm',1.17613658772697604604e+00,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/sft_loss',5.29867887496948242187e+00,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/lr',0.01,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/duration_ms',109.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/num_tokens',4.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/rollouts_dropped',0.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/groups_skipped',0.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/positions_computed',14.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/positions_saved',0.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/tokens_per_second',38.9809555715643,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/images_per_second',0.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'sys/peak_memory_bytes',411828224.0,1795930180899);
INSERT INTO "metrics" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'eval/score',0.5,1795930180936);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/applied',1.0,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/router_kl',6.17012032307684421539e-03,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/grad_norm',1.17613658772697604604e+00,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/sft_loss',5.29867887496948242187e+00,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/lr',0.01,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/duration_ms',89.0,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/num_tokens',4.0,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/rollouts_dropped',0.0,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/groups_skipped',0.0,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/positions_computed',14.0,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/positions_saved',0.0,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/tokens_per_second',5.23332354355263618117e+01,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/images_per_second',0.0,1795930181088);
INSERT INTO "metrics" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'sys/peak_memory_bytes',411959296.0,1795930181088);
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
INSERT INTO "train_requests" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,'c5a2526680d1a47da8a525cfd7cf6f08e61ec11943642266a7aeb1b9a4a84d0c','delivered',1,1,0,1795930180464,1795930180561,1795930180604);
INSERT INTO "train_requests" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,'c5a2526680d1a47da8a525cfd7cf6f08e61ec11943642266a7aeb1b9a4a84d0c','delivered',1,2,0,1795930180624,1795930180720,1795930180738);
INSERT INTO "train_requests" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,'c5a2526680d1a47da8a525cfd7cf6f08e61ec11943642266a7aeb1b9a4a84d0c','delivered',1,3,0,1795930180787,1795930180899,1795930180914);
INSERT INTO "train_requests" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,'dcdd3ace34ed7a5b68264b3138665f33bd515b15d69187979ed0bebf2c96daf8','delivered',1,1,0,1795930180991,1795930181088,1795930181108);
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
INSERT INTO "train_steps" VALUES('01M8JWFJKX9Z9HJG9BBM1176PS',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.95719063557939,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":88,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":51.15107763639941,"images_per_second":0.0,"peak_memory_bytes":411828224,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWFJKX9Z9HJG9BBM1176PS/00000001-97cd3a7c7c9e.weights.safetensors','c545a4144ccaf0c35bc53d62fc015f6208a5c5ba45be19c282cf2475e2f50072',19040,'finetunes/01M8JWFJKX9Z9HJG9BBM1176PS/00000001-97cd3a7c7c9e.optimizer.safetensors','da21a15e99be8e7b1171452ccbbfacb6e6b8a8258afc4bdbd5a9c13bbc1aa52a',38208,1795930180350);
INSERT INTO "train_steps" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9995566231718384,"reward_mean":null,"reward_std":null,"sft_loss":5.893152236938477,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":94,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":46.87383566126237,"images_per_second":0.0,"peak_memory_bytes":411828224,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWFJKD6WEDC49FKZ5EH3WH/00000001-fb70983209a4.weights.safetensors','2b1bf0dc06995570861fd17299c1468a5c95d69ec86ec3b71167f5a14d3b088d',19040,'finetunes/01M8JWFJKD6WEDC49FKZ5EH3WH/00000001-fb70983209a4.optimizer.safetensors','3c858d38fc7773abee4a5273930957c043959585ea8caf2117896c434d790c72',38208,1795930180561);
INSERT INTO "train_steps" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',2,1,'{"step":2,"applied":true,"kl":null,"router_kl":0.0012179870827822015,"grad_norm":1.0175262645198586,"reward_mean":null,"reward_std":null,"sft_loss":5.6313910484313965,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":88,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":49.3402389768421,"images_per_second":0.0,"peak_memory_bytes":411828224,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWFJKD6WEDC49FKZ5EH3WH/00000002-813aa7571826.weights.safetensors','d53257dfa7eb4edce799202a5e0b53fc7e6eaf678793330e8c7f262009d951b0',19040,'finetunes/01M8JWFJKD6WEDC49FKZ5EH3WH/00000002-813aa7571826.optimizer.safetensors','93823c8395ad221fbb075ad775f7c9f71912b80d19522b62e865ad4f651fa43f',38208,1795930180720);
INSERT INTO "train_steps" VALUES('01M8JWFJKD6WEDC49FKZ5EH3WH',3,1,'{"step":3,"applied":true,"kl":null,"router_kl":0.006170120323076844,"grad_norm":1.176136587726976,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":109,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":38.9809555715643,"images_per_second":0.0,"peak_memory_bytes":411828224,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWFJKD6WEDC49FKZ5EH3WH/00000003-7b868e81e018.weights.safetensors','46811bb8ce1d819cd54ddcb89eb456fbc44705c4a29dd284172222e35d6cda0e',19040,'finetunes/01M8JWFJKD6WEDC49FKZ5EH3WH/00000003-7b868e81e018.optimizer.safetensors','bce68d5dbea99fe9152d08c921af53b35f71f32782c76714b29d6ca1697f5bbc',38208,1795930180899);
INSERT INTO "train_steps" VALUES('01M8JWFKANW7YGFGTWK2MF0BPP',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.006170120323076844,"grad_norm":1.176136587726976,"reward_mean":null,"reward_std":null,"sft_loss":5.298678874969482,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"loss":"group","loss_length":64.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"drop_below":0.0001,"drop_above":100.0,"drop_gap":0.7,"beta":0.0,"kl_ratio_max":2.0,"router_beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":89,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"ratio_mean":null,"ratio_max":null,"rollouts_dropped":0,"logprob_gap_mean":null,"logprob_gap_max":null,"entropy":null,"groups_skipped":0,"positions_computed":14,"positions_saved":0,"tokens_per_second":52.33323543552636,"images_per_second":0.0,"peak_memory_bytes":411959296,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWFKANW7YGFGTWK2MF0BPP/00000001-69c755ea2660.weights.safetensors','a59267e984f46aa9fe29ab08cfa5fcaa929e44437bb974ea1ce5861d515403c1',19040,'finetunes/01M8JWFKANW7YGFGTWK2MF0BPP/00000001-69c755ea2660.optimizer.safetensors','72bc0903acaa7d944dcd75ddd78dfd81c4fe486f4652950ec77ad08667af0af6',38208,1795930181088);
CREATE UNIQUE INDEX uq_finetunes_living_name ON finetunes (account_id, name) WHERE deleted_at_ms IS NULL;
CREATE UNIQUE INDEX uq_checkpoints_living_step ON checkpoints (finetune_id, step) WHERE deleted_at_ms IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('finetunes',4);
COMMIT;
