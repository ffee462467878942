BEGIN TRANSACTION;
CREATE TABLE accounts (
	id VARCHAR(64) NOT NULL, 
	created_at_ms BIGINT NOT NULL, 
	CONSTRAINT pk_accounts PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES('default',1795930287890);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE checkpoints (
	id VARCHAR(26) NOT NULL, 
	finetune_id VARCHAR(26) NOT NULL, 
	step BIGINT NOT NULL, 
	weights_path TEXT, 
	weights_digest VARCHAR(64), 
	weights_num_bytes BIGINT, 
	created_at_ms BIGINT NOT NULL, 
	updated_at_ms BIGINT NOT NULL, 
	deleted_at_ms BIGINT, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT fk_checkpoints_finetune_id FOREIGN KEY(finetune_id) REFERENCES finetunes (id)
);
INSERT INTO "checkpoints" VALUES('01M8JWK7SC3XEZYGH0XGARFVCX','01M8JWK7ERAJ72EZX896Q5EPPR',2,'finetunes/01M8JWK7ERAJ72EZX896Q5EPPR/00000002-7fa6cca9cc45.weights.safetensors','f207a6bb6c40be41f6278df1c7fd384b68c4d68073e31dc0c17f754717549b03',19040,1795930300204,1795930300204,NULL);
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
	deleted_at_ms BIGINT, 
	CONSTRAINT ck_finetunes_rank CHECK (rank IN (8, 16, 24, 32)), 
	CONSTRAINT ck_finetunes_step CHECK (step >= 0), 
	CONSTRAINT fk_finetunes_account_id FOREIGN KEY(account_id) REFERENCES accounts (id), 
	CONSTRAINT uq_finetunes_id UNIQUE (id)
);
INSERT INTO "finetunes" VALUES(1,'01M8JWK7ERAJ72EZX896Q5EPPR','default','trained',8,584181672859559123,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',3,1795930299864,1795930300253,NULL);
INSERT INTO "finetunes" VALUES(2,'01M8JWK7F7GA63XPWY4R2HVFQ7','default','gone',8,5413846125573897419,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',1,1795930299879,1795930300092,1795930300092);
INSERT INTO "finetunes" VALUES(3,'01M8JWK7FRHW1Y51RZY06N1GXN','default','untrained',8,4933835455504191953,'micro','6514b0ccba8706d825de62efd54ef5332ea6dd2bc1d636116f629d62f4fffb87',0,1795930299896,1795930299896,NULL);
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
INSERT INTO "metrics" VALUES('01M8JWK7F7GA63XPWY4R2HVFQ7',1,'sys/lr',0.01,1795930300055);
INSERT INTO "metrics" VALUES('01M8JWK7F7GA63XPWY4R2HVFQ7',1,'sys/applied',1.0,1795930300055);
INSERT INTO "metrics" VALUES('01M8JWK7F7GA63XPWY4R2HVFQ7',1,'sys/router_kl',0.0,1795930300055);
INSERT INTO "metrics" VALUES('01M8JWK7F7GA63XPWY4R2HVFQ7',1,'sys/grad_norm',9.57190478173357450764e-01,1795930300055);
INSERT INTO "metrics" VALUES('01M8JWK7F7GA63XPWY4R2HVFQ7',1,'sys/sft_loss',5.89315205812454223632e+00,1795930300055);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',1,'sys/lr',0.01,1795930300145);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',1,'sys/applied',1.0,1795930300145);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',1,'sys/router_kl',0.0,1795930300145);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',1,'sys/grad_norm',9.99556483475207091515e-01,1795930300145);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',1,'sys/sft_loss',5.89315205812454223632e+00,1795930300145);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',2,'sys/lr',0.01,1795930300188);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',2,'sys/applied',1.0,1795930300188);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',2,'sys/router_kl',1.21801924251485615968e-03,1795930300188);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',2,'sys/grad_norm',1.01752629104920888636e+00,1795930300188);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',2,'sys/sft_loss',5.6313908696174621582e+00,1795930300188);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',3,'sys/lr',0.01,1795930300253);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',3,'sys/applied',1.0,1795930300253);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',3,'sys/router_kl',6.17015501484274864196e-03,1795930300253);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',3,'sys/grad_norm',1.17613655845392561793e+00,1795930300253);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',3,'sys/sft_loss',5.29867881536483764648e+00,1795930300253);
INSERT INTO "metrics" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',3,'eval/score',0.5,1795930300268);
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
INSERT INTO "train_steps" VALUES('01M8JWK7F7GA63XPWY4R2HVFQ7',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9571904781733575,"reward_mean":null,"reward_std":null,"sft_loss":5.893152058124542,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":108,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"logprob_gap_mean":null,"logprob_gap_max":null,"groups_skipped":0,"tokens_per_second":40.435557674852845,"images_per_second":0.0,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWK7F7GA63XPWY4R2HVFQ7/00000001-1225388b665c.weights.safetensors','269d8602e703259b7ca651f2da43c1a913f7e4c88ac40f011c54b33876db62f4',19040,'finetunes/01M8JWK7F7GA63XPWY4R2HVFQ7/00000001-1225388b665c.optimizer.safetensors','5a0a85fcc3c96049df56c15e9b84042bd1a96bd441d9206e57d97140d211599d',38208,1795930300055);
INSERT INTO "train_steps" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',1,1,'{"step":1,"applied":true,"kl":null,"router_kl":0.0,"grad_norm":0.9995564834752071,"reward_mean":null,"reward_std":null,"sft_loss":5.893152058124542,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":39,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"logprob_gap_mean":null,"logprob_gap_max":null,"groups_skipped":0,"tokens_per_second":109.22634678234958,"images_per_second":0.0,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWK7ERAJ72EZX896Q5EPPR/00000001-29b8674ec36f.weights.safetensors','86fd1404aaf715f63e1139659f255bddb7ec77ba8a215deb43347a025875b3b2',19040,'finetunes/01M8JWK7ERAJ72EZX896Q5EPPR/00000001-29b8674ec36f.optimizer.safetensors','7a28f4730dcdcceb59c70eeaa786e2c104280af33cdf3403f2ddc50896c1fcfc',38208,1795930300145);
INSERT INTO "train_steps" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',2,1,'{"step":2,"applied":true,"kl":null,"router_kl":0.0012180192425148562,"grad_norm":1.0175262910492089,"reward_mean":null,"reward_std":null,"sft_loss":5.631390869617462,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":29,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"logprob_gap_mean":null,"logprob_gap_max":null,"groups_skipped":0,"tokens_per_second":150.72037557112446,"images_per_second":0.0,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWK7ERAJ72EZX896Q5EPPR/00000002-7fa6cca9cc45.weights.safetensors','f207a6bb6c40be41f6278df1c7fd384b68c4d68073e31dc0c17f754717549b03',19040,'finetunes/01M8JWK7ERAJ72EZX896Q5EPPR/00000002-7fa6cca9cc45.optimizer.safetensors','c14b057ce7ef207484b0e4b9d1fdf9052313b0f2e65965cbae0b4e8e14ffca98',38208,1795930300188);
INSERT INTO "train_steps" VALUES('01M8JWK7ERAJ72EZX896Q5EPPR',3,1,'{"step":3,"applied":true,"kl":null,"router_kl":0.006170155014842749,"grad_norm":1.1761365584539256,"reward_mean":null,"reward_std":null,"sft_loss":5.298678815364838,"lr":0.01,"options":{"advantage_scale":"group","std_floor":0.0001,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"beta":0.0,"sft_weight":1.0,"expert_lr_ratio":1.0,"max_grad_norm":1.0},"duration_ms":40,"num_tokens":4,"policy_lag":null,"clip_fraction":null,"logprob_gap_mean":null,"logprob_gap_max":null,"groups_skipped":0,"tokens_per_second":107.17205865778455,"images_per_second":0.0,"reward_by_skill":{},"warnings":[]}','finetunes/01M8JWK7ERAJ72EZX896Q5EPPR/00000003-6ea974c7eee1.weights.safetensors','58fc518179ba7728865214604dcf717583f275d29ecd352a75781e1cea0dfd15',19040,'finetunes/01M8JWK7ERAJ72EZX896Q5EPPR/00000003-6ea974c7eee1.optimizer.safetensors','56bf8306adf5034744f82479548c009609e8b2494626dc924b4661cb74894ebe',38208,1795930300253);
CREATE UNIQUE INDEX uq_finetunes_living_name ON finetunes (account_id, name) WHERE deleted_at_ms IS NULL;
CREATE UNIQUE INDEX uq_checkpoints_living_step ON checkpoints (finetune_id, step) WHERE deleted_at_ms IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('finetunes',3);
COMMIT;
